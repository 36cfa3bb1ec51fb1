//! `docs/benchmarks.svg`: grouped bars on a logarithmic scale. Written without a plotting crate: its
//! style sheet follows the reader's light or dark theme, where those write fixed colours.

use std::fmt::Write;

use crate::commands::bench::figures::BarGroup;

const WIDTH: f64 = 860.0;
/// The start of the bars and the end of the longest one; labels take the rest.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 670.0;
const BAR: f64 = 13.0;
const GROUP_GAP: f64 = 12.0;
const TITLE: f64 = 34.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 34.0;

/// The classes of the bars in their order, with their names in the legend.
const SIDES: [(&str, &str); 3] = [
    ("peer", "Python torchcache 0.6.0"),
    ("ours", "torchcache"),
    ("limit", "limit: what any cache must do"),
];

const STYLE: &str = "\
text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.small { font-size: 12px; fill: #59636e }
.page { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #d1d9e0 }
.peer { fill: #d4761c }
.ours { fill: #2563c9 }
.limit { fill: #8c959f }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.page { fill: #0d1117; stroke: #3d444d }
.grid { stroke: #2a3038 }
.peer { fill: #e08a3a }
.ours { fill: #4d8df6 }
.limit { fill: #7d8590 }
}";

/// Powers of ten, in milliseconds, around all figures.
#[derive(Debug, PartialEq)]
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    fn new(groups: &[BarGroup]) -> Self {
        let bars = groups.iter().flat_map(|group| &group.bars);
        let decades = bars
            .filter_map(|bar| bar.milliseconds)
            .filter(|milliseconds| *milliseconds > 0.0)
            .map(f64::log10);
        let (least, most) = decades.fold((0.0f64, 0.0f64), |(least, most), decade| {
            (least.min(decade), most.max(decade))
        });
        // The smallest bar must be visible, so the scale begins below it.
        Scale {
            first: (least - 0.1).floor() as i32,
            last: (most.ceil() as i32).max(1),
        }
    }

    fn x(&self, milliseconds: f64) -> f64 {
        let decades = f64::from(self.last - self.first);
        let share = (milliseconds.log10() - f64::from(self.first)) / decades;
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    fn name(decade: i32) -> String {
        match decade {
            3.. => format!("{} s", 10i64.pow(decade as u32 - 3)),
            0..3 => format!("{} ms", 10i64.pow(decade as u32)),
            -3..0 => format!("{} µs", 10i64.pow((decade + 3) as u32)),
            _ => format!("10^{decade} ms"),
        }
    }
}

/// The chart of the workloads' figures.
pub(crate) fn svg(groups: &[BarGroup]) -> String {
    let scale = Scale::new(groups);
    let mut body = String::new();
    let mut y = TOP;
    for workload in groups.chunk_by(|one, next| one.workload == next.workload) {
        y += TITLE;
        text(
            &mut body,
            (16.0, y - 12.0),
            "start",
            "title",
            &workload[0].workload,
        );
        let bars: usize = workload.iter().map(|group| group.bars.len()).sum();
        let gaps = GROUP_GAP * workload.len() as f64;
        draw_grid(
            &mut body,
            &scale,
            (y - 4.0, y + BAR * bars as f64 + gaps - 6.0),
        );
        for group in workload {
            y = draw_group(&mut body, group, &scale, y);
        }
    }
    let height = y + BOTTOM;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>Cost of a call, compared with the Python package and the limit</title>\n\
         <style>\n{STYLE}\n</style>\n\
         <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
        WIDTH - 1.0,
        height - 1.0
    );
    draw_legend(&mut svg);
    for decade in scale.first..=scale.last {
        let x = scale.x(10f64.powi(decade));
        text(
            &mut svg,
            (x, y + 14.0),
            "middle",
            "small",
            &Scale::name(decade),
        );
    }
    svg + &body + "</svg>\n"
}

/// A line at each decade.
fn draw_grid(svg: &mut String, scale: &Scale, (from, to): (f64, f64)) {
    for decade in scale.first..=scale.last {
        let x = scale.x(10f64.powi(decade));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"/>"
        );
    }
}

fn draw_legend(svg: &mut String) {
    let heading = "Cost of a call without the forward; logarithmic scale, less is better";
    text(svg, (16.0, 26.0), "start", "title", heading);
    let mut x = 16.0;
    for (side, name) in SIDES {
        bar(svg, side, (x, 40.0), 13.0);
        text(svg, (x + 19.0, 51.0), "start", "small", name);
        x += 40.0 + 6.6 * name.chars().count() as f64;
    }
}

/// Draws a group at `y` and returns the place of the next one.
fn draw_group(svg: &mut String, group: &BarGroup, scale: &Scale, y: f64) -> f64 {
    let height = BAR * group.bars.len() as f64;
    let middle = y + height / 2.0 + 4.5;
    text(svg, (LEFT - 10.0, middle), "end", "", &group.served);
    let mut top = y;
    for shown in &group.bars {
        let end = shown.milliseconds.map_or(LEFT, |figure| scale.x(figure));
        bar(svg, &shown.side, (LEFT, top), (end - LEFT).max(1.0));
        text(
            svg,
            (end + 6.0, top + BAR - 2.5),
            "start",
            "small",
            shown.label.as_deref().unwrap_or("not run"),
        );
        top += BAR;
    }
    top + GROUP_GAP
}

fn bar(svg: &mut String, side: &str, (x, y): (f64, f64), width: f64) {
    let (side, height) = (escaped(side), BAR - 1.5);
    let _ = writeln!(
        svg,
        "<rect class=\"{side}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, content: &str) {
    let content = escaped(content);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::figures::ChartBar;

    fn groups(peer: Option<f64>) -> Vec<BarGroup> {
        let bar = |side: &str, milliseconds: Option<f64>| ChartBar {
            side: side.to_owned(),
            milliseconds,
            label: milliseconds.map(|ms| format!("{ms} <ms>")),
        };
        let group = |served: &str| BarGroup {
            workload: "embed".to_owned(),
            served: served.to_owned(),
            bars: vec![
                bar("peer", peer),
                bar("ours", Some(1.0)),
                bar("limit", Some(0.02)),
            ],
        };
        vec![group("memory hit"), group("disk hit")]
    }

    #[test]
    fn every_figure_has_a_bar_and_a_label() {
        let svg = svg(&groups(Some(50.0)));
        // Two groups and the legend.
        for side in ["peer", "ours", "limit"] {
            assert_eq!(
                svg.matches(&format!("class=\"{side}\"")).count(),
                3,
                "{side}"
            );
        }
        assert_eq!(svg.matches(">50 &lt;ms&gt;<").count(), 2);
        assert_eq!(svg.matches(">embed<").count(), 1);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn a_figure_that_was_not_run_has_no_bar() {
        let svg = svg(&groups(None));
        assert_eq!(svg.matches(">not run<").count(), 2);
        assert!(
            svg.contains("class=\"peer\" x=\"170.0\" y=\"96.0\" width=\"1.0\""),
            "{svg}"
        );
    }

    #[test]
    fn the_scale_is_logarithmic() {
        let groups = groups(Some(50.0));
        let scale = Scale::new(&groups);
        assert_eq!(scale, Scale { first: -2, last: 2 });
        let decade = scale.x(10.0) - scale.x(1.0);
        assert!((scale.x(1.0) - scale.x(0.1) - decade).abs() < 1e-9);
        assert_eq!((scale.x(0.01), scale.x(100.0)), (LEFT, RIGHT));
        let names = [-3, -2, 0, 2, 3].map(Scale::name);
        assert_eq!(names, ["1 µs", "10 µs", "1 ms", "100 ms", "1 s"]);
    }
}
