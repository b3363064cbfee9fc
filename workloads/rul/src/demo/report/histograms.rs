//! What the service saw before, during and after, against what its model was trained on.

use cmapss::regimes::Regimes;
use cmapss::{Column, FeatureSet, Fleet};

use super::Story;
use super::svg::{Anchor, Frame, Svg};
use crate::artifact::Baseline;
use crate::demo::course::seconds;
use crate::demo::scores::Model;
use crate::drift::service::Entry;
use crate::simulate::WINDOW;

/// Cycles.
const STEP: f64 = 12.5;

/// One of the three phases.
struct Phase<'a> {
    title: String,
    entries: Vec<&'a Entry>,
    model: &'a Model,
    class: &'static str,
}

fn phases<'a>(story: &'a Story<'_>) -> [Phase<'a>; 3] {
    let (found, m) = (story.found, &story.found.moments);
    let since = |at: jiff::Timestamp| seconds(jiff::Timestamp::UNIX_EPOCH, at);
    let (t1, live) = (since(m.t1), since(m.live));
    let pick = |keep: &dyn Fn(&Entry) -> bool| found.entries.iter().filter(|e| keep(e)).collect();
    let old = |entry: &Entry| entry.model_version == found.champion;
    let phase = |title: String, entries, model, class| Phase { title, entries, model, class };
    [
        phase(format!("Before: version {}", found.champion), pick(&|e| old(e) && e.at < t1), story.champion, "old"),
        phase(
            format!("New engines, version {}", found.champion),
            pick(&|e| old(e) && e.at >= t1 && e.at < live),
            story.champion,
            "old",
        ),
        phase(
            format!("New engines, version {}", found.challenger),
            pick(&|e| e.model_version == found.challenger),
            story.challenger,
            "new",
        ),
    ]
}

fn baseline<'a>(phase: &Phase<'a>) -> Option<&'a Baseline> {
    phase.model.artifact.baseline.as_ref()
}

fn panel(index: usize, across: (f64, f64), top: f64, height: f64) -> Frame {
    Frame { x: 60.0 + 356.0 * index as f64, y: 40.0, width: 280.0, height, across, up: (0.0, top) }
}

/// The share of windows in each regime.
pub fn regimes(story: &Story<'_>) -> String {
    let mut svg = Svg::new(1080.0, 290.0, "Share of the operating regimes before, during and after");
    let six = Regimes::six();
    for (index, phase) in phases(story).into_iter().enumerate() {
        let frame = panel(index, (0.0, six.centres.len() as f64), 1.0, 190.0);
        svg.text((frame.x, 18.0), Anchor::Start, "panel", &phase.title);
        frame.y_axis(&mut svg, 4, if index == 0 { "share of the traffic" } else { "" });
        svg.line((frame.x, frame.bottom()), (frame.right(), frame.bottom()), "axis");
        let seen = regime_shares(&phase, &six);
        for (k, centre) in six.centres.iter().enumerate() {
            let (a, b) = (frame.at_x(k as f64 + 0.14), frame.at_x(k as f64 + 0.86));
            let share = seen.get(k).copied().unwrap_or(0.0);
            svg.rect(
                (a, frame.at_y(share)),
                (b - a, frame.bottom() - frame.at_y(share)),
                &format!("fill {}", phase.class),
            );
            let trained = baseline(&phase).and_then(|b| b.inputs.regimes.get(k)).map_or(0.0, |r| r.share);
            let y = frame.at_y(trained);
            svg.line((a - 4.0, y), (b + 4.0, y), "trained");
            svg.text(((a + b) / 2.0, frame.bottom() + 18.0), Anchor::Middle, "tick", &format!("{:.0}", centre[0]));
        }
        let middle = frame.x + frame.width / 2.0;
        svg.text((middle, frame.bottom() + 38.0), Anchor::Middle, "label", "altitude of the regime, 1000 ft");
    }
    svg.finish()
}

/// Told by the altitude, the one setting that the model sees.
fn regime_shares(phase: &Phase<'_>, six: &Regimes) -> Vec<f64> {
    let features = FeatureSet::by_names(phase.model.artifact.manifest.features.iter().map(String::as_str));
    let place = features.ok().and_then(|f| f.columns().iter().position(|c| c.index() == 0));
    let mut counts = vec![0usize; six.centres.len()];
    for altitude in phase.entries.iter().filter_map(|entry| place.and_then(|k| entry.row.get(k))) {
        let far = |k: &usize| (six.centres[*k][0] - altitude).abs();
        if let Some(nearest) = (0..counts.len()).min_by(|a, b| far(a).total_cmp(&far(b))) {
            counts[nearest] += 1;
        }
    }
    counts.iter().map(|&n| n as f64 / phase.entries.len().max(1) as f64).collect()
}

/// The share of predictions in each step of remaining life.
pub fn predictions(story: &Story<'_>) -> String {
    let mut svg = Svg::new(1080.0, 290.0, "Predictions before, during and after");
    let cap = f64::from(story.champion.artifact.model.cap());
    let shares = phases(story).map(|phase| {
        let values: Vec<f64> = phase.entries.iter().filter_map(|entry| entry.rul).collect();
        (by_step(&values, STEP, steps(cap)), baseline(&phase).map_or_else(Vec::new, |b| trained(b, cap)), phase)
    });
    let all = shares.iter().flat_map(|(seen, trained, _)| seen.iter().chain(trained));
    let top = (all.copied().fold(0.1, f64::max) / 0.1).ceil() * 0.1;
    for (index, (seen, trained, phase)) in shares.into_iter().enumerate() {
        let frame = panel(index, (0.0, cap), top, 190.0);
        svg.text((frame.x, 18.0), Anchor::Start, "panel", &phase.title);
        frame.y_axis(&mut svg, 4, if index == 0 { "share of the predictions" } else { "" });
        frame.x_axis(&mut svg, 5, "predicted remaining life, cycles");
        bars(&mut svg, &frame, (0.0, STEP), &seen, &trained, phase.class);
    }
    svg.finish()
}

fn steps(cap: f64) -> usize {
    (cap / STEP).ceil().max(1.0) as usize
}

/// Shares of values in `count` steps; what is outside counts in the first or the last.
fn by_step(values: &[f64], step: f64, count: usize) -> Vec<f64> {
    let mut counts = vec![0usize; count];
    for value in values {
        let step = ((value / step).max(0.0) as usize).min(counts.len() - 1);
        counts[step] += 1;
    }
    counts.iter().map(|&n| n as f64 / values.len().max(1) as f64).collect()
}

/// The baseline's buckets in the same steps; a bucket counts where its upper bound is.
fn trained(baseline: &Baseline, cap: f64) -> Vec<f64> {
    let mut shares = vec![0.0; steps(cap)];
    let total = baseline.histogram.counts.iter().sum::<u64>().max(1) as f64;
    for (k, &count) in baseline.histogram.counts.iter().enumerate() {
        let bound = baseline.histogram.buckets.get(k).copied().unwrap_or(cap);
        // An upper bound belongs to its bucket.
        let step = ((bound / STEP).ceil() as usize).saturating_sub(1).min(shares.len() - 1);
        shares[step] += count as f64 / total;
    }
    shares
}

/// One sensor's readings, raw: the temperature at the low-pressure turbine's outlet.
pub fn sensor(story: &Story<'_>) -> String {
    let mut svg = Svg::new(1080.0, 290.0, "Readings of sensor 4 before, during and after");
    let Some(column) = Column::sensor(4) else { return svg.finish() };
    let data = &story.found.data;
    let readings = |fleets: &[&Fleet]| -> Vec<f64> {
        let engines = fleets.iter().flat_map(|fleet| &fleet.engines);
        engines.flat_map(|engine| engine.rows.iter().skip(WINDOW - 1)).map(|row| row.get(column)).collect()
    };
    let (old, both) = (readings(&[&data.usual.train]), readings(&[&data.usual.train, &data.new.train]));
    let fold = |start: f64, pick: fn(f64, f64) -> f64| both.iter().copied().fold(start, pick);
    let (low, high) =
        ((fold(f64::MAX, f64::min) / 25.0).floor() * 25.0, (fold(f64::MIN, f64::max) / 25.0).ceil() * 25.0);
    let step = (high - low) / 24.0;
    for (index, phase) in phases(story).into_iter().enumerate() {
        let frame = panel(index, (low, high), 1.0, 190.0);
        svg.text((frame.x, 18.0), Anchor::Start, "panel", &phase.title);
        frame.y_axis(&mut svg, 4, if index == 0 { "share of the readings" } else { "" });
        frame.x_axis(&mut svg, 4, "sensor 4, degrees Rankine");
        let features = FeatureSet::by_names(phase.model.artifact.manifest.features.iter().map(String::as_str));
        let place = features.ok().and_then(|f| f.columns().iter().position(|c| *c == column));
        let seen: Vec<f64> = phase.entries.iter().filter_map(|e| e.row.get(place?).map(|v| v - low)).collect();
        let own: Vec<f64> = if phase.class == "new" { &both } else { &old }.iter().map(|v| v - low).collect();
        bars(&mut svg, &frame, (low, step), &by_step(&seen, step, 24), &by_step(&own, step, 24), phase.class);
    }
    svg.finish()
}

/// What was seen as bars, what was trained on as an outline.
fn bars(svg: &mut Svg, frame: &Frame, (low, step): (f64, f64), seen: &[f64], trained: &[f64], class: &str) {
    let end = low + step * seen.len() as f64;
    let mut outline = vec![frame.at((low, 0.0))];
    for (k, (seen, trained)) in seen.iter().zip(trained).enumerate() {
        let (from, to) = (low + k as f64 * step, low + (k + 1) as f64 * step);
        let (a, b, y) = (frame.at_x(from) + 0.8, frame.at_x(to) - 0.8, frame.at_y(*seen));
        svg.rect((a, y), (b - a, frame.bottom() - y), &format!("fill {class}"));
        outline.extend([frame.at((from, *trained)), frame.at((to, *trained))]);
    }
    outline.push(frame.at((end, 0.0)));
    svg.path(&outline, "trained");
}

#[cfg(test)]
mod tests {
    use super::by_step;

    #[test]
    fn shares_sum_to_one_and_the_edges_belong_to_the_last_steps() {
        let shares = by_step(&[-1.0, 0.0, 12.5, 125.0, 200.0], 12.5, 10);
        assert_eq!((shares.len(), shares[0], shares[1], shares[9]), (10, 0.4, 0.2, 0.4));
    }
}
