//! Latency distributions as curves, and a drawing of them: how long all but one in N had to wait.
//!
//! ```text
//!  us |            .--   both axes are logarithmic, so that the tail is as wide as the middle
//!     |      ..---'
//!     |___---
//!     '----------------
//!      50 %  99 %  99.99 %
//! ```

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Points to each tenfold step towards 100 %.
const STEPS: u32 = 10;
/// Tenfold steps: up to 99.9999 %.
const MOST_NINES: u32 = 6;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 4] = ["#1f5fa8", "#c4501b", "#3a7d34", "#7a4a9e"];

/// A distribution by quantile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub name: String,
    /// Quantile (0 to 1) and microseconds, ascending in both.
    pub points: Vec<[f64; 2]>,
}

impl Curve {
    /// Of a histogram of nanoseconds. Ends where less than one value is beyond.
    pub(super) fn of(name: &str, histogram: &Histogram<u64>) -> Self {
        let count = histogram.len() as f64;
        let quantiles = (0..=STEPS * MOST_NINES)
            .map(beyond)
            .take_while(|beyond| beyond * count >= 1.0)
            .map(|beyond| 1.0 - beyond);
        let point = |q| [q, histogram.value_at_quantile(q) as f64 / 1000.0];
        Self {
            name: name.to_owned(),
            points: quantiles.map(point).collect(),
        }
    }
}

/// The share of values beyond the quantile of a step.
fn beyond(step: u32) -> f64 {
    10f64.powf(-f64::from(step) / f64::from(STEPS))
}

/// An SVG image of the curves that have points.
pub fn svg(title: &str, curves: &[Curve]) -> String {
    let curves: Vec<&Curve> = curves.iter().filter(|c| c.points.len() > 1).collect();
    let axes = Axes::around(&curves);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, (LEFT, TOP - 16.0), "start", title);
    axes.draw(&mut out);
    for (n, curve) in curves.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|[quantile, us]| format!("{:.1},{:.1}", axes.x(*quantile), axes.y(*us)))
            .collect();
        line(
            &mut out,
            &format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                points.join(" ")
            ),
        );
        let y = TOP + 16.0 * (n as f64 + 1.0);
        let x = WIDTH - RIGHT + 16.0;
        line(
            &mut out,
            &format!(
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                y - 9.0
            ),
        );
        text(&mut out, (x + 16.0, y), "start", &curve.name);
    }
    out.push_str("</svg>\n");
    out
}

/// What the axes span: tenfold steps towards 100 %, and powers of ten of microseconds.
struct Axes {
    nines: f64,
    low: i32,
    high: i32,
}

impl Axes {
    fn around(curves: &[&Curve]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let nines = points()
            .map(|[quantile, _]| nines(*quantile))
            .fold(1.0, f64::max);
        let least = points().map(|[_, us]| *us).fold(f64::MAX, f64::min);
        let most = points().map(|[_, us]| *us).fold(1.0, f64::max);
        let low = least.min(most).max(0.001).log10().floor() as i32;
        let high = (most.log10().ceil() as i32).max(low + 1);
        Self { nines, low, high }
    }

    fn x(&self, quantile: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (nines(quantile) / self.nines).min(1.0)
    }

    fn y(&self, us: f64) -> f64 {
        let share = (us.max(0.001).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    }

    fn draw(&self, out: &mut String) {
        for power in self.low..=self.high {
            let us = 10f64.powi(power);
            let y = self.y(us);
            rule(out, (LEFT, y), (WIDTH - RIGHT, y));
            text(out, (LEFT - 8.0, y + 4.0), "end", &time(us));
        }
        for quantile in [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999] {
            if nines(quantile) > self.nines + 1e-9 {
                break;
            }
            let x = self.x(quantile);
            rule(out, (x, TOP), (x, HEIGHT - BOTTOM));
            let label = format!("{} %", (quantile * 1e8).round() / 1e6);
            text(out, (x, HEIGHT - BOTTOM + 18.0), "middle", &label);
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        text(
            out,
            (middle, HEIGHT - 10.0),
            "middle",
            "share of the requests that took no longer",
        );
    }
}

/// Tenfold steps towards 100 %: 1 for 90 %, 2 for 99 %.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-9).log10()
}

fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", us / 1e6),
        us if us >= 1e3 => format!("{} ms", us / 1e3),
        us => format!("{us} us"),
    }
}

fn line(out: &mut String, element: &str) {
    out.push_str(element);
    out.push('\n');
}

fn rule(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
    );
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, count: u64) -> Curve {
        let mut histogram = Histogram::new(3).expect("valid");
        for n in 1..=count {
            histogram.record(n * 1000).expect("in bounds");
        }
        Curve::of(name, &histogram)
    }

    #[test]
    fn a_curve_ends_with_its_last_value() {
        let curve = curve("latency", 1000);
        let [quantile, us] = *curve.points.last().expect("points");
        assert!(
            (quantile - 0.999).abs() < 1e-9 && (us - 999.0).abs() < 2.0,
            "{us}"
        );
        assert!(
            curve
                .points
                .is_sorted_by(|a, b| a[0] < b[0] && a[1] <= b[1])
        );
        assert!(
            Curve::of("nothing", &Histogram::new(3).expect("valid"))
                .points
                .is_empty()
        );
    }

    #[test]
    fn the_image_has_every_curve_within_its_frame() {
        let curves = [
            curve("latency", 100_000),
            curve("a < b & c", 50),
            Curve::default(),
        ];
        let image = svg("edge", &curves);
        assert!(image.starts_with("<svg") && image.ends_with("</svg>\n"));
        assert_eq!(image.matches("<polyline").count(), 2);
        assert!(
            image.contains("a &lt; b &amp; c") && image.contains("99.999 %"),
            "{image}"
        );
        for points in image.split("points=\"").skip(1) {
            for point in points.split('"').next().expect("closed").split(' ') {
                let (x, y) = point.split_once(',').expect("a point");
                let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
                assert!(
                    (LEFT..=WIDTH - RIGHT).contains(&x)
                        && (TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y),
                    "{point}"
                );
            }
        }
    }

    #[test]
    fn nothing_to_draw_is_an_empty_frame() {
        assert!(!svg("nothing", &[]).contains("polyline"));
    }
}
