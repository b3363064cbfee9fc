//! How wrong both models are, on engines that neither has learned from.

use super::Story;
use super::svg::{Anchor, Frame, Svg};
use crate::demo::incident::thousands;
use crate::demo::scores::{Point, Scored};

/// More dots than this hide each other.
const DOTS: usize = 1500;
const STEP: f64 = 25.0;

/// Predicted against true: two models in columns.
pub fn figure(story: &Story<'_>) -> String {
    let mut svg = Svg::new(1080.0, 470.0, "Predicted against true remaining life of held-out engines, both models");
    let cap = f64::from(story.champion.artifact.model.cap());
    let new = &story.found.data.new.name;
    let panels = [
        (&story.champion.new, "old", format!("Champion, version {}", story.found.champion), 60.0),
        (&story.challenger.new, "new", format!("Challenger, version {}", story.found.challenger), 600.0),
    ];
    for (scored, class, title, x) in panels {
        let frame = Frame { x, y: 52.0, width: 460.0, height: 360.0, across: (0.0, cap), up: (0.0, cap) };
        svg.text((x, 18.0), Anchor::Start, "panel", &title);
        let rmse =
            format!("{new}, {} windows: RMSE {:.1} cycles", thousands(scored.points.len() as u64), scored.rmse());
        svg.text((x, 38.0), Anchor::Start, "small", &rmse);
        frame.y_axis(&mut svg, 5, "predicted, cycles");
        frame.x_axis(&mut svg, 5, "true remaining life, cycles");
        let stride = scored.points.len().div_ceil(DOTS).max(1);
        for Point { truth, predicted } in scored.points.iter().step_by(stride) {
            svg.dot(frame.at((*truth, *predicted)), 1.9, &format!("mark {class}"));
        }
        svg.line(frame.at((0.0, 0.0)), frame.at((cap, cap)), "ideal");
        svg.text((frame.at_x(0.79 * cap), frame.at_y(0.79 * cap) + 22.0), Anchor::Start, "small halo", "right");
    }
    svg.finish()
}

/// Error by true remaining life: usual engines left, new ones right.
pub fn by_truth(story: &Story<'_>) -> String {
    let mut svg = Svg::new(1080.0, 330.0, "Error by true remaining life, both models");
    let cap = f64::from(story.champion.artifact.model.cap());
    let data = &story.found.data;
    let panels = [
        (&data.usual.name, "usual", &story.champion.usual, &story.challenger.usual, 60.0),
        (&data.new.name, "new", &story.champion.new, &story.challenger.new, 600.0),
    ];
    let bars = |scored: &Scored| scored.by_truth(STEP, cap);
    let all = panels.iter().flat_map(|p| bars(p.2).into_iter().chain(bars(p.3)));
    let top = (all.map(|b| b.1).fold(10.0, f64::max) / 10.0).ceil() * 10.0;
    for (name, kind, old, new, x) in panels {
        let frame = Frame { x, y: 52.0, width: 460.0, height: 220.0, across: (0.0, cap), up: (0.0, top) };
        svg.text((x, 18.0), Anchor::Start, "panel", &format!("{name}: {kind} engines"));
        let (before, after) = (old.rmse(), new.rmse());
        svg.text(
            (x, 38.0),
            Anchor::Start,
            "small",
            &format!("RMSE in all {before:.1} cycles before, {after:.1} after"),
        );
        frame.y_axis(&mut svg, 5, "RMSE, cycles");
        frame.x_axis(&mut svg, 5, "true remaining life, cycles");
        for (scored, class, side) in [(old, "fill old", -1.0), (new, "fill new", 0.0)] {
            for (middle, error) in bars(scored) {
                let (x, y) = frame.at((middle, error));
                svg.rect((x + side * 30.0, y), (29.0, frame.bottom() - y), class);
            }
        }
    }
    svg.finish()
}
