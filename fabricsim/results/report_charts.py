"""The charts of a report, as Bokeh figures: each draws what was prepared for it, and nothing without bound.

Colours of axes and texts come from the style sheet of the page, as CSS variables that Bokeh looks up, so that a page is
light or dark as its reader wishes; those of data are the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJSTickFormatter,
    FactorRange,
    HoverTool,
    LinearColorMapper,
    LogTicker,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from bokeh.transform import transform

from fabricsim.results.over_time import ClassOverTime
from fabricsim.results.report_data import (
    Bars,
    Heat,
    Latencies,
    Share,
)

#: Eight colours that people of any colour vision tell apart, on white and on black: Paul Tol's "bright", and an orange.
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8833", "#999999")

#: From idle to the busiest, and what is dead.
SCALE = tuple(Viridis256[::51])
DEAD = "#999999"

#: Lines that lie on each other are all seen.
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")

#: A tier with fewer nodes per plane has its planes along the other axis.
_FEW_NODES = 4

#: An axis with fewer digits than Bokeh's own, and none of its exponents.
_PLAIN = "return tick.toLocaleString('en', {maximumSignificantDigits: 6})"


def color(number: int) -> str:
    """Give the colour of the n-th of several; they come again after eight."""
    return COLORS[number % len(COLORS)]


def shares_chart(rows: Sequence[Share], keys: Sequence[str]) -> figure:
    """Draw stacked bars: of each row what part of its time went where, in percent."""
    names = [row.name for row in rows]
    data: dict[str, Any] = {"name": names, "time": [row.time for row in rows]}
    data |= {key: [row.percent[key] for row in rows] for key in keys}
    chart = _figure(60 + 34 * len(rows), x_label="share of the time (%)", x_range=(0, 100), y_range=names[::-1])
    bars = chart.hbar_stack(
        list(keys), y="name", height=0.75, color=[color(number) for number in range(len(keys))], source=data
    )
    for key, bar in zip(keys, bars, strict=True):
        _hover(chart, [bar], [("", "@name"), ("took", "@time"), (key.replace("_", " "), f"@{key}{{0.0}} %")])
    chart.ygrid.visible = False
    chart.toolbar_location = None
    return chart


def bars_chart(bars: Bars, end_us: float) -> figure:
    """Draw a line per rank, until *end_us*, and on it a bar for each operation from its begin to its end there."""
    lines = len(bars.ranks)
    chart = _figure(
        90 + min(16 * lines, 640),
        x_label="simulated time (us)",
        y_label="rank",
        x_range=(0, end_us),
        y_range=(lines - 0.5, -0.5),
    )
    source = ColumnDataSource(
        {
            "left": bars.begin_us,
            "right": bars.end_at_us,
            "top": bars.top,
            "bottom": bars.bottom,
            "rank": bars.rank,
            "stream": bars.stream,
            "operation": bars.operation,
            "took": bars.end_at_us - bars.begin_us,
            "name": [bars.names[kind] for kind in bars.kind.tolist()],
            "color": [color(kind) for kind in bars.kind.tolist()],
        }
    )
    drawn = chart.quad("left", "right", "top", "bottom", source=source, fill_color="color", line_color="color")
    drawn.glyph.line_width = 0.5
    _hover(
        chart,
        [drawn],
        [
            ("operation", "@name (@operation)"),
            ("rank", "@rank"),
            ("stream", "@stream"),
            ("begin", "@left{0,0.000} us"),
            ("end", "@right{0,0.000} us"),
            ("took", "@took{0,0.000} us"),
        ],
    )
    shown = np.unique(np.linspace(0, lines - 1, min(lines, 16)).round().astype(int)).tolist()
    chart.yaxis.ticker = shown
    chart.yaxis.major_label_overrides = {line: f"{bars.ranks[line]}" for line in shown}
    chart.ygrid.visible = False
    return chart


def over_time_chart(classes: Sequence[ClassOverTime], what: str, end_us: float, most: float) -> figure:
    """Draw a line per class of channels until *end_us*: ``utilization``, or ``peak_occupancy_bytes`` in KiB.

    *most* is the largest value of all charts that are to be compared.
    """
    is_share = what == "utilization"
    scale = 100 if is_share else 1 / 1024
    chart = _figure(
        220,
        x_label="simulated time (us)",
        y_label="channels busy (%)" if is_share else "fullest buffer (KiB)",
        x_range=(0, end_us),
        y_range=(0, 1.05 * scale * most or 1),
    )
    for number, row in enumerate(classes):
        values = getattr(row, what) * scale
        edges_us = row.edges_ps / 1e6
        source = ColumnDataSource(
            {"x": edges_us, "y": np.append(values, values[-1:]), "to": np.append(edges_us[1:], edges_us[-1:])}
        )
        line = chart.step("x", "y", source=source, mode="after", color=color(number), line_width=2)
        line.glyph.line_dash = DASHES[number % len(DASHES)]
        unit = "{0.0} %" if is_share else "{0,0.0} KiB"
        _hover(chart, [line], [("", row.name), ("from", "@x{0,0.0} us"), ("to", "@to{0,0.0} us"), ("", f"@y{unit}")])
    return chart


def heat_chart(heat: Heat, most: float) -> figure:
    """Draw planes by nodes of a tier; a cell is as bright as the busiest channel there, *most* the brightest."""
    sizes = {"plane": max(heat.plane) + 1, "column": max(heat.column) + 1}
    labels = {"plane": "plane", "column": f"{heat.tier} (number in its plane)"}
    # Planes are lines, unless each has but a few nodes.
    x, y = ("column", "plane") if sizes["column"] >= _FEW_NODES else ("plane", "column")
    chart = _figure(
        110 + min(20 * sizes[y], 220),
        x_label=labels[x],
        y_label="plane" if y == "plane" else heat.tier,
        x_range=(-0.5, sizes[x] - 0.5),
        y_range=(sizes[y] - 0.5, -0.5),
    )
    mapper = LinearColorMapper(palette=list(Viridis256), low=0, high=most or 1, nan_color=DEAD)
    source = ColumnDataSource(
        {
            "column": heat.column,
            "plane": heat.plane,
            "name": heat.name,
            "busiest": heat.busiest,
            "mean": heat.mean,
            "channel": heat.channel,
        }
    )
    bright = transform("busiest", mapper)
    cells = chart.rect(x, y, 1, 1, source=source, fill_color=bright, line_color=bright)
    _hover(
        chart,
        [cells],
        [("", "@name"), ("busiest channel", "@channel"), ("busy", "@busiest{0.0} %"), ("mean of all", "@mean{0.0} %")],
    )
    chart.axis.ticker = BasicTicker(min_interval=1)
    chart.xgrid.visible = chart.ygrid.visible = False
    return chart


def latency_chart(latencies: Sequence[Latencies]) -> figure:
    """Draw for each result what share of the messages took no longer, and percentiles of the packets."""
    chart = _figure(320, x_label="latency (us)", y_label="took no longer (%)", x_axis_type="log", y_range=(0, 102))
    for number, row in enumerate(latencies):
        if len(row.message_us):
            line = chart.line(row.message_us, row.message_percent, color=color(number), line_width=2.5)
            _hover(chart, [line], [("", f"{row.name}, messages"), ("latency", "$x{0,0.000} us"), ("", "$y{0.0} %")])
        if row.packet_us:
            points = ColumnDataSource({"x": row.packet_us, "y": row.packet_percent, "words": row.packet_words})
            chart.line("x", "y", source=points, color=color(number), line_width=1.5, line_dash="dashed")
            dots = chart.scatter("x", "y", source=points, color=color(number), size=8, marker="circle")
            _hover(chart, [dots], [("", f"{row.name}, packets"), ("@words", "@x{0,0.000} us")])
    chart.xaxis.ticker = LogTicker(mantissas=[1, 2, 5])
    return chart


def _figure(height: int, *, x_label: str, y_label: str | None = None, **options: Any) -> figure:
    chart = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="xpan,xbox_zoom,reset,save",
        active_drag=None,  # dragging scrolls a page on a phone, until a tool is chosen
        toolbar_location="above",
        x_axis_label=x_label,
        y_axis_label=y_label,
        **options,
    )
    chart.toolbar.logo = None
    for axis in chart.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "12px"
        axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
    chart.xaxis.formatter = CustomJSTickFormatter(code=_PLAIN)
    if not isinstance(chart.y_range, FactorRange):
        chart.yaxis.formatter = CustomJSTickFormatter(code=_PLAIN)
    chart.min_border_right = 24  # for half of the last number
    return chart


def _hover(chart: figure, renderers: Sequence[Any], rows: Sequence[tuple[str, str]]) -> None:
    chart.add_tools(HoverTool(renderers=list(renderers), tooltips=list(rows), visible=False))
