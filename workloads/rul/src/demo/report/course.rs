//! The course of the incident: everything over one axis of time.

use super::Story;
use super::svg::{Anchor, Frame, Svg};
use crate::demo::course::seconds;
use crate::demo::samples::Sample;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 24.0;
/// Width of the bins of traffic, seconds.
const BIN: f64 = 1.0;
const RIBBON: f64 = 22.0;

/// A stretch of a ribbon: from and to in seconds, how it looks, what it says.
type Piece<'a> = (f64, f64, &'a str, String);

/// One second of traffic.
#[derive(Debug, Default, Clone)]
struct Bin {
    old: usize,
    new: usize,
    latencies: Vec<f64>,
    /// Squared errors and their number: of usual and of new engines.
    errors: [(f64, usize); 2],
}

fn bins(samples: &[Sample], length: f64, cap: f64, challenger: &str) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); (length / BIN).ceil() as usize];
    for sample in samples {
        let Some(bin) = bins.get_mut((sample.at / BIN) as usize) else { continue };
        if sample.model_version == challenger {
            bin.new += 1
        } else {
            bin.old += 1
        }
        bin.latencies.push(sample.latency_ms);
        let (sum, n) = &mut bin.errors[usize::from(sample.drifted)];
        *sum += (sample.rul.min(cap) - sample.truth.min(cap)).powi(2);
        *n += 1;
    }
    for bin in &mut bins {
        bin.latencies.sort_unstable_by(f64::total_cmp);
    }
    bins
}

impl Bin {
    fn latency(&self, share: f64) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get(((last as f64) * share).round() as usize).copied()
    }
}

pub fn figure(story: &Story<'_>) -> String {
    let found = story.found;
    let m = &found.moments;
    let since = |at| seconds(found.traffic_began, at);
    let length = found.traffic["seconds"].as_f64().unwrap_or(1.0).max(1.0);
    let bins = bins(&found.samples, length.floor().max(1.0), 125.0, &found.challenger);
    let mut svg = Svg::new(WIDTH, 742.0, "The course of the incident: states, traffic and errors over time");
    let frame = |y, height, up| Frame { x: LEFT, y, width: WIDTH - LEFT - RIGHT, height, across: (0.0, length), up };
    let all = frame(54.0, 640.0, (0.0, 1.0));

    ribbons(&mut svg, story, frame(64.0, RIBBON, (0.0, 1.0)), &since, length);

    let inputs = frame(196.0, 90.0, (0.0, 0.8));
    heading(&mut svg, &inputs, "Moved inputs", "share of the traffic");
    inputs.y_axis(&mut svg, 4, "");
    if let Some(measure) = found.looks.iter().filter_map(|look| look.measure("regime")).next() {
        // The drifted curve runs close above the upper line: its name goes below.
        let middle = inputs.x + inputs.width / 2.0;
        for (value, what, below) in
            [(Some(measure.threshold), "drift if it stays", -4.0), (measure.strong, "drift at once", 14.0)]
        {
            let Some(y) = value.map(|value| inputs.at_y(value)) else { continue };
            svg.line((inputs.x, y), (inputs.right(), y), "threshold");
            svg.text((middle, y + below), Anchor::Middle, "small halo", what);
        }
    }
    for version in [&found.champion, &found.challenger] {
        let looks = found.looks.iter().filter(|look| look.version.as_ref() == Some(version));
        let points: Vec<_> = looks
            .filter_map(|look| Some(inputs.at((since(look.at), look.measure("regime")?.value))))
            .filter(|p| p.0 > inputs.x)
            .collect();
        let class = colour(story, version);
        svg.path(&points, &format!("curve {class}"));
        points.iter().for_each(|&point| svg.dot(point, 2.6, &format!("dot {class}")));
    }

    answers(&mut svg, frame(324.0, 90.0, (0.0, 1.3 * found.rate * BIN)), &bins);
    latencies(&mut svg, frame(452.0, 90.0, (-0.5, 3.0)), &bins);
    errors(&mut svg, frame(580.0, 114.0, (0.0, 60.0)), &bins);

    all.x_axis(&mut svg, 12, "seconds since the first request");
    moments(
        &mut svg,
        &all,
        &[
            ("T0", since(m.t0)),
            ("T1", since(m.t1)),
            ("T2", since(m.t2)),
            ("T3", since(m.t3)),
            ("T4", since(m.t4)),
            ("T5", since(m.t5)),
        ],
    );
    svg.finish()
}

fn colour(story: &Story<'_>, version: &str) -> &'static str {
    if version == story.found.challenger { "new" } else { "old" }
}

fn heading(svg: &mut Svg, frame: &Frame, text: &str, unit: &str) {
    let middle = frame.y + frame.height / 2.0;
    svg.text((0.0, middle), Anchor::Start, "row", text);
    svg.text((0.0, middle + 15.0), Anchor::Start, "small", unit);
}

/// Who was at it, and what the watch thought.
fn ribbons(svg: &mut Svg, story: &Story<'_>, frame: Frame, since: &dyn Fn(jiff::Timestamp) -> f64, length: f64) {
    let found = story.found;
    let m = &found.moments;
    let percent = 100.0 * found.data.new_share();
    let new = format!("{} and {}: {percent:.0} % new engines", found.data.usual.name, found.data.new.name);
    let serving = |version: &str| format!("version {version}");
    let rows: [(&str, Vec<Piece<'_>>); 4] = [
        (
            "Engines",
            vec![
                (0.0, since(m.t1), "fill usual", found.data.usual.name.clone()),
                (since(m.t1), length, "fill fresh", new),
            ],
        ),
        ("Drift watch", states(story, since, length)),
        (
            "Retraining",
            vec![
                (since(m.t3), since(m.trained), "fill work", "rul train".to_owned()),
                (since(m.trained), since(m.t4), "fill work pale", "rul promote".to_owned()),
            ],
        ),
        (
            "Serving",
            vec![
                (0.0, since(m.live), "fill old", serving(&found.champion)),
                (since(m.live), length, "fill new", serving(&found.challenger)),
            ],
        ),
    ];
    for (row, (name, pieces)) in rows.into_iter().enumerate() {
        let y = frame.y + row as f64 * (RIBBON + 6.0);
        svg.text((0.0, y + 15.5), Anchor::Start, "row", name);
        for (from, to, class, text) in pieces {
            let (a, b) = (frame.at_x(from), frame.at_x(to));
            svg.rect((a, y), (b - a, RIBBON), class);
            // Words that do not fit say nothing.
            if b - a > 6.6 * text.chars().count() as f64 + 12.0 {
                svg.text(((a + b) / 2.0, y + 15.5), Anchor::Middle, "inside", &text);
            }
        }
    }
}

/// Stretches of one state.
fn states(story: &Story<'_>, since: &dyn Fn(jiff::Timestamp) -> f64, length: f64) -> Vec<Piece<'static>> {
    let looks = &story.found.looks;
    let mut pieces: Vec<Piece<'static>> = Vec::new();
    for (index, look) in looks.iter().enumerate() {
        let from = since(look.at).clamp(0.0, length);
        let to = looks.get(index + 1).map_or(length, |next| since(next.at)).clamp(0.0, length);
        let (class, name): (&'static str, &str) = match look.state.as_str() {
            "ok" => ("fill good", "ok"),
            "suspect" => ("fill warn", "suspect"),
            "drift" => ("fill bad", "drift"),
            "insufficient_data" => ("fill none", "too few"),
            _ => ("fill none", look.state.as_str()),
        };
        match pieces.last_mut() {
            Some(last) if last.3 == name => last.1 = to,
            _ => pieces.push((from, to, class, name.to_owned())),
        }
    }
    pieces
}

fn answers(svg: &mut Svg, frame: Frame, bins: &[Bin]) {
    heading(svg, &frame, "Answers", "per second");
    frame.y_axis(svg, 3, "");
    for (index, bin) in bins.iter().enumerate() {
        let from = frame.at_x(index as f64 * BIN) + 0.8;
        let width = (frame.at_x((index + 1) as f64 * BIN) - from - 0.8).max(1.0);
        let (base, top) = (frame.at_y(bin.old as f64), frame.at_y((bin.old + bin.new) as f64));
        svg.rect((from, base), (width, frame.bottom() - base), "fill old");
        svg.rect((from, top), (width, base - top), "fill new");
    }
}

/// On a scale of powers of ten: quiet seconds and busy ones differ by that much.
fn latencies(svg: &mut Svg, frame: Frame, bins: &[Bin]) {
    heading(svg, &frame, "Latency", "milliseconds");
    for power in 0..=3 {
        let y = frame.at_y(f64::from(power));
        svg.line((frame.x, y), (frame.right(), y), "grid");
        svg.text((frame.x - 8.0, y + 4.0), Anchor::End, "tick", &10u32.pow(power as u32).to_string());
    }
    for (share, class, name) in [(0.5, "curve half", "half are faster"), (0.99, "curve slow", "99 of 100 are faster")] {
        let point = |(index, bin): (usize, &Bin)| {
            Some(frame.at(((index as f64 + 0.5) * BIN, bin.latency(share)?.max(0.01).log10())))
        };
        let points: Vec<_> = bins.iter().enumerate().filter_map(point).collect();
        svg.path(&points, class);
        // The lowest of the line leaves room above or below it.
        let edge = points.iter().map(|p| p.1).fold(f64::NAN, if share > 0.5 { f64::min } else { f64::max });
        let y = if share > 0.5 { edge - 6.0 } else { edge + 15.0 };
        svg.text((frame.right(), y), Anchor::End, "small halo", name);
    }
}

fn errors(svg: &mut Svg, frame: Frame, bins: &[Bin]) {
    heading(svg, &frame, "Error", "RMSE, cycles");
    let rmse = |(sum, n): (f64, usize)| (n >= 5).then(|| (sum / n as f64).sqrt());
    let top = bins.iter().flat_map(|bin| bin.errors).filter_map(rmse).fold(20.0, f64::max);
    let frame = Frame { up: (0.0, (top / 10.0).ceil() * 10.0), ..frame };
    frame.y_axis(svg, 4, "");
    for (kind, class, name) in [(0, "curve usual", "usual engines"), (1, "curve fresh", "new engines")] {
        let point = |(index, bin): (usize, &Bin)| Some(frame.at(((index as f64 + 0.5) * BIN, rmse(bin.errors[kind])?)));
        let points: Vec<_> = bins.iter().enumerate().filter_map(point).collect();
        svg.path(&points, class);
        // Above the first points, which differ.
        if let Some(&(x, _)) = points.first() {
            let y = points.iter().take(9).map(|p| p.1).fold(f64::INFINITY, f64::min);
            svg.text((x + 2.0, y - 7.0), Anchor::Start, "small halo", name);
        }
    }
}

/// Upright lines with their names on top, in two rows where they are close.
fn moments(svg: &mut Svg, frame: &Frame, moments: &[(&str, f64)]) {
    let mut last = f64::NEG_INFINITY;
    let mut row = 0;
    for &(name, at) in moments {
        let x = frame.at_x(at);
        row = if x - last < 22.0 { row + 1 } else { 0 };
        last = x;
        let y = frame.y - 10.0 - 17.0 * f64::from(row % 3);
        svg.line((x, y + 4.0), (x, frame.bottom()), "moment");
        svg.rect((x - 11.0, y - 11.0), (22.0, 15.0), "flag");
        svg.text((x, y + 0.5), Anchor::Middle, "flagtext", name);
    }
}
