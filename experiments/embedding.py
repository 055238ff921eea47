"""A map of points to explore by hand: zoom in, point at a dot to see its picture, hide classes.

Drawn with Bokeh, whose script is embedded, so that the page works from a file with no network.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_CLASSES = 20  # more different labels are a quantity, not classes
GREY = "#8b949e"  # readable on white and on black
TOOLTIP = '<div style="font:14px system-ui,sans-serif;text-align:center">{}</div>'
PICTURE = (
    '<img src="@picture" alt="" style="display:block;width:84px;height:auto;margin:2px auto;'
    'image-rendering:pixelated">'
)


def draw(
    points: np.ndarray,
    labels: Sequence[Any] | np.ndarray | None = None,
    images: np.ndarray | None = None,
    *,
    axes: tuple[str, str] = ("first coordinate", "second coordinate"),
    at_most: int = 5000,
) -> Any:
    """Return a Bokeh figure of the points, coloured by label; a label of many values is a scale.

    Args:
        points: Positions, shape (n, 2).
        labels: One a point: numbers or names of at most 20 classes, or any numbers.
        images: What the points stand for, in [0, 1], shape (n, height, width) or with 3 channels.
        axes: Names of the two axes.
        at_most: Of more points than this, these many are drawn, evenly spaced in their order.

    Raises:
        ValueError: For points that are no finite (n, 2), or labels or images of another length.
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite and of shape (n, 2), got {points.shape}")
    for name, values in (("labels", labels), ("images", images)):
        if values is not None and len(values) != len(points):
            raise ValueError(f"{name} must have length {len(points)}, got {len(values)}")
    rows = np.unique(np.linspace(0, len(points) - 1, min(at_most, len(points))).astype(int))
    columns: dict[str, Any] = {"x": points[rows, 0], "y": points[rows, 1]}
    if labels is not None:
        columns["label"] = np.asarray(labels)[rows]
    if images is not None:
        columns["picture"] = np.asarray([_png(image) for image in np.asarray(images)[rows]])
    classes = np.unique(columns.get("label", []))
    shown = PICTURE if images is not None else ""
    if labels is not None:
        shown += "@label" if len(classes) <= MAX_CLASSES else "@label{0.000}"
    figure = _canvas(axes, TOOLTIP.format(shown or "(@x, @y)"))
    _scatter(figure, columns, classes)
    return figure


def _canvas(axes, tooltip):
    from bokeh.models import HoverTool, WheelZoomTool
    from bokeh.plotting import figure

    # The wheel alone scrolls the page; a pinch on a touchpad counts as Ctrl + wheel.
    wheel = WheelZoomTool(modifiers={"ctrl": True})
    canvas = figure(
        tools=["pan", "box_zoom", wheel, "reset", "save"],
        active_scroll=wheel,
        toolbar_location="above",
        match_aspect=True,
        sizing_mode="scale_width",
        aspect_ratio=1.1,
        max_width=820,
        x_axis_label=axes[0],
        y_axis_label=axes[1],
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
    )
    canvas.add_tools(HoverTool(tooltips=tooltip, point_policy="snap_to_data"))
    canvas.toolbar.logo = None
    canvas.grid.grid_line_color = GREY
    canvas.grid.grid_line_alpha = 0.2
    for axis in canvas.axis:
        axis.update(
            axis_line_color=GREY,
            axis_label_text_color=GREY,
            axis_label_text_font_style="normal",
            major_label_text_color=GREY,
            major_tick_line_color=GREY,
            minor_tick_line_color=None,
        )
    return canvas


def _scatter(canvas, columns, classes):
    from bokeh.models import ColorBar, ColumnDataSource, Legend, LegendItem
    from bokeh.palettes import Category10, Category20
    from bokeh.transform import linear_cmap

    style = {"size": 6 if len(columns["x"]) > 1000 else 8, "line_color": None, "fill_alpha": 0.75}
    labels = columns.get("label")
    if labels is None:
        canvas.scatter("x", "y", source=ColumnDataSource(columns), color="#4c8dd6", **style)
        return
    if len(classes) > MAX_CLASSES:
        colour = linear_cmap("label", "Viridis256", float(labels.min()), float(labels.max()))
        canvas.scatter("x", "y", source=ColumnDataSource(columns), fill_color=colour, **style)
        bar = ColorBar(color_mapper=colour["transform"], background_fill_alpha=0, width=10)
        bar.major_label_text_color = GREY
        canvas.add_layout(bar, "right")
        return
    palette = Category10[10] if len(classes) <= 10 else Category20[20]
    items = []
    for value, colour in zip(classes, palette, strict=False):
        source = ColumnDataSource({k: v[labels == value] for k, v in columns.items()})
        dots = canvas.scatter("x", "y", source=source, color=colour, **style)
        items.append(LegendItem(label=str(value), renderers=[dots]))
    legend = Legend(items=items, click_policy="hide", background_fill_alpha=0, spacing=0)
    legend.update(border_line_color=None, label_text_color=GREY, padding=0, margin=4)
    canvas.add_layout(legend, "right")


def _png(image):
    """A picture as a data URI."""
    from PIL import Image

    file = io.BytesIO()
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def item(figure: Any) -> str:
    """Return the figure as JSON for `Bokeh.embed.embed_item`: data only."""
    from bokeh.embed import json_item

    return json.dumps(json_item(figure))


def page(figure: Any, title: str) -> str:
    """Return the figure as an HTML page of its own."""
    from bokeh.embed import file_html
    from bokeh.resources import Resources

    return file_html(figure, Resources("inline", log_level="warn"), title)


def script() -> str:
    """Return the JavaScript that draws items."""
    from bokeh.resources import Resources

    return "\n".join(Resources("inline", components=["bokeh"], log_level="warn").js_raw)
