import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.mixtures import _clips, cosegmentation
from experiments.report import Report, UserError, replacing
from unsup_jax.mixtures import gaussian


@pytest.fixture(scope="module")
def clips():
    return _clips.composed(0, n_frames=6, size=64)


def test_quick_run_finds_the_object(tmp_path):
    report = Report("cosegmentation", tmp_path)
    cosegmentation.run(cosegmentation.Config(quick=True), report)
    report.close()
    assert report._metrics["iou_joint"] > 0.8
    assert report._metrics["iou_joint"] > report._metrics["iou_start"]
    written = {p.relative_to(report.folder).as_posix() for p in report.folder.rglob("*.*")}
    assert {"contact_sheet.png", "curves.png", "overlay.gif", "metrics.json"} <= written
    assert {"masks/flower/000.png", "masks/china/007.png"} <= written


def test_joint_log_likelihood_never_falls(clips):
    pixels = tuple(cosegmentation.pixels_of(c, _clips.guess(c, "motion")) for c in clips)
    start = cosegmentation.init(jax.random.key(0), pixels, n_foreground=3, n_background=4)
    fitted = cosegmentation.fit(start, pixels, 1e-6, -1.0, max_iter=25)
    history = np.asarray(fitted.history)
    assert np.diff(history).min() > -2e-5
    assert history[-1] > history[0] + 0.1


def test_a_step_is_em_for_the_mixture_of_mixtures(clips):
    """One clip, no information in the guess: the model is one mixture of all components."""
    pixels = cosegmentation.pixels_of(clips[0], _clips.guess(clips[0], "motion"), stride=2)
    start = cosegmentation.init(jax.random.key(0), (pixels,), n_foreground=2, n_background=3)
    same = (jnp.array([0.3, 0.3]),)
    pixels = pixels._replace(guess=jnp.zeros_like(pixels.guess))
    ours = cosegmentation.fit(start._replace(shares=same), (pixels,), 0.0, -1.0, max_iter=1).params

    inside, outside = start.foreground, start.backgrounds[0]
    pooled = gaussian.Params(
        jnp.concatenate([jnp.log(0.3) + inside.log_weights, jnp.log(0.7) + outside.log_weights]),
        jnp.concatenate([inside.means, outside.means]),
        jax.tree.map(lambda *a: jnp.concatenate(a), inside.covariance, outside.covariance),
    )
    expected = gaussian.fit(pooled, pixels.x, None, 0.0, -1.0, max_iter=1).params
    share = jnp.exp(expected.log_weights)
    np.testing.assert_allclose(ours.shares[0][0], share[:2].sum(), rtol=1e-4)
    means = jnp.concatenate([ours.foreground.means, ours.backgrounds[0].means])
    np.testing.assert_allclose(means, expected.means, atol=1e-4)


def test_smoothing_follows_the_edges_of_the_picture():
    truth = np.zeros((1, 24, 24), bool)
    truth[:, :, 12:] = True
    noise = 2 * np.random.default_rng(0).standard_normal(truth.shape)
    odds = jnp.asarray(np.where(truth, 1, -1) + noise, jnp.float32)
    colours = jnp.asarray(truth[..., None], jnp.float32)
    smooth = np.asarray(cosegmentation.smooth(odds, colours, 2.0)) > 0.5
    assert (np.asarray(odds > 0) == truth).mean() < 0.8
    assert (smooth == truth).mean() > 0.97
    untouched = cosegmentation.smooth(odds.clip(-4, 4), colours, 0.0)
    np.testing.assert_allclose(untouched, jax.nn.sigmoid(odds.clip(-4, 4)), atol=1e-5)


def test_camera_path_and_layout():
    picture = _clips.data.photograph("coffee")[..., :1]
    path = np.array([[0, 0], [2, 3], [5, 1]])
    frames = np.stack([picture[100 + y : 200 + y, 200 + x : 320 + x] for y, x in path])
    np.testing.assert_array_equal(_clips.camera_path(frames), path)

    found = np.zeros((3, 20, 30), bool)
    for t in range(3):
        found[t, 5:10, 4 * t : 4 * t + 9] = True
    layout = _clips.layout(found)
    for t in range(3):
        np.testing.assert_allclose(layout[t, 7, 4 * t + 4], 0)


def test_reads_folders_and_videos_without_known_truth(clips, tmp_path):
    import imageio.v3 as iio

    frames = (255 * clips[0].frames).round().astype(np.uint8)
    (tmp_path / "my clip").mkdir()
    for i, frame in enumerate(frames):
        iio.imwrite(tmp_path / "my clip" / f"frame{i}.png", frame)
    with replacing(tmp_path / "my clip.gif") as path:
        iio.imwrite(path, frames, plugin="pillow")
    paths = (tmp_path / "my clip", tmp_path / "my clip.gif")
    config = cosegmentation.Config(quick=True, clips=paths, n_foreground=2, n_background=2)
    report = Report("cosegmentation", tmp_path / "results")
    cosegmentation.run(config, report)
    report.close()
    assert (report.folder / "masks" / "my_clip_2" / "005.png").exists()
    assert "iou_joint" not in report._metrics


def test_helpful_errors(clips, tmp_path):
    still = clips[0]._replace(frames=np.full((4, 32, 32, 3), 0.5, np.float32))
    with pytest.raises(UserError, match="no motion in the clip 'flower'"):
        _clips.guess(still, "motion")
    config, report = cosegmentation.Config(clips=(tmp_path,)), Report("one", tmp_path)
    with pytest.raises(UserError, match="two paths or more"):
        cosegmentation.run(config, report)
