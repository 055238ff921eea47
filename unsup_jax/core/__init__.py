"""What every model shares: the result of a fit, its driver, additive statistics, linear algebra."""
