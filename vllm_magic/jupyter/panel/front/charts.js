// A chart over time: areas and lines as SVG; below it the smallest value, the time span and the largest value.

const HEIGHT = 48;
const WIDTH = 240; // the SVG is stretched to the available width; lines keep their thickness

/**
 * Makes a chart.
 * @param about what the chart shows, as text for a screen reader
 * @param unit a function that writes a value as text
 * @param series for each series its colour (a class) and whether it is an area
 */
function chart(about, unit, series, height = HEIGHT) {
  const shapes = series.map(({ kind, area }) =>
    svg(area ? "polygon" : "polyline", { class: `vmp-${area ? "area" : "line"} ${kind}`, "vector-effect": "non-scaling-stroke" }),
  );
  const lines = svg("g");
  const picture = svg(
    "svg",
    { class: "vmp-svg", viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img", style: `height:${height}px` },
    ...shapes,
    lines,
  );
  const top = node("span");
  const bottom = node("span");
  const span = node("span");
  const eventNames = node("div", { class: "vmp-event-names", "aria-hidden": "true" });
  const el = node(
    "div",
    { class: "vmp-chart" },
    node("div", { class: "vmp-plot" }, picture, eventNames),
    node("div", { class: "vmp-scale" }, bottom, span, top),
  );

  /**
   * Draws the chart with these values; each call replaces the last one.
   * @param points [time, value of each series...]; a value that is not known is null
   * @param from, until the time span that is shown
   * @param events [[time, name]], drawn as vertical lines
   * @param level a value that is drawn as a horizontal line
   */
  function draw(points, from, until, events = [], level = null) {
    const width = Math.max(1, until - from);
    const x = (at) => Math.round((WIDTH * 10 * (at - from)) / width) / 10;
    const shown = points.filter(([at]) => at >= from && at <= until);
    const values = shown.flatMap((point) => point.slice(1)).filter((value) => value !== null);
    const largest = Math.max(...values, level ?? 0, 0);
    const smallest = values.length ? Math.min(...values) : 0;
    const y = (value) => Math.round(10 * (height - 1 - ((height - 4) * value) / (largest || 1))) / 10;
    shapes.forEach((shape, index) => {
      const known = shown.filter((point) => point[index + 1] !== null);
      const line = known.map((point) => `${x(point[0])},${y(point[index + 1])}`).join(" ");
      const first = known.length ? x(known[0][0]) : 0;
      const last = known.length ? x(known[known.length - 1][0]) : 0;
      setAttribute(shape, "points", series[index].area && known.length ? `${first},${height} ${line} ${last},${height}` : line);
    });
    updateChildren(lines, [events.map(([at]) => x(at)), level === null ? null : y(level)], () => [
      ...events.map(([at]) => lineBetween(x(at), 0, x(at), height, "vmp-event")),
      ...(level === null ? [] : [lineBetween(0, y(level), WIDTH, y(level), "vmp-level")]),
    ]);
    updateChildren(eventNames, events.map(([at, name]) => [Math.round(x(at)), name]), () =>
      events.map(([at, name]) => eventName(x(at) / WIDTH, name)),
    );
    setText(top, values.length ? `max ${unit(largest)}` : "no data yet");
    setText(bottom, values.length ? `min ${unit(smallest)}` : "");
    setText(span, values.length ? durationText(width) : "");
    setAttribute(picture, "aria-label", values.length ? `${about}: from ${unit(smallest)} to ${unit(largest)} in ${durationText(width)}` : about);
  }

  return { el, draw };
}

function lineBetween(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind, "vector-effect": "non-scaling-stroke" });
}

/** Makes the name of an event, next to its line: left of the line in the right half of the chart. */
function eventName(share, text) {
  const side = share > 0.5 ? `right:${(100 * (1 - share)).toFixed(2)}%` : `left:${(100 * share).toFixed(2)}%`;
  return node("span", { style: side, text });
}
