//! The report: one HTML file with its style and pictures inside. Nothing is loaded, nothing is executed.

mod course;
mod histograms;
mod scatter;
mod svg;
mod tables;

use std::fmt::Write;

use super::course::{Findings, seconds};
use super::house::House;
use super::incident::{Incident, thousands};
use super::scores::Model;
use svg::escape;

/// Everything that the report tells of.
#[derive(Debug)]
pub struct Story<'a> {
    pub found: &'a Findings,
    pub incident: &'a Incident,
    pub champion: &'a Model,
    pub challenger: &'a Model,
    pub house: &'a House,
}

/// The whole page.
pub fn page(story: &Story<'_>) -> String {
    let mut body = String::new();
    for part in [head(story), timeline(story), errors(story), inputs(story), decision(story), ran(story)] {
        body.push_str(&part);
    }
    let title = escape(&story.incident.verdict());
    let style = include_str!("style.css");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>rul demo: {title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn section(title: &str, caption: &str, content: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n<p class=\"caption\">{caption}</p>\n{content}</section>\n", escape(title))
}

fn figure(legend: &[(&str, &str)], svg: &str) -> String {
    let mut items = String::new();
    for (class, text) in legend {
        let _ = write!(items, "<li><i class=\"{class}\"></i>{}</li>", escape(text));
    }
    let legend = if items.is_empty() { String::new() } else { format!("<ul class=\"legend\">{items}</ul>") };
    format!("<figure>{legend}{svg}</figure>\n")
}

fn head(story: &Story<'_>) -> String {
    let (found, incident) = (story.found, story.incident);
    let day = incident.t0.strftime("%Y-%m-%d %H:%M UTC");
    let kind = if found.data.generated { "look-alike data, generated" } else { "C-MAPSS data" };
    let (old, new) = (incident.rmse_drifted_before, incident.rmse_drifted_after);
    let cycles = |rmse: Option<f64>| rmse.map_or_else(|| "?".to_owned(), |r| format!("{r:.1}"));
    let tiles = [
        (
            format!("{:.1} <small>s</small>", seconds(incident.t1, incident.t2)),
            "from the first new engine to the alert at the trigger",
        ),
        (
            format!("{:.1} <small>s</small>", incident.core_recovery_s),
            "from the alert to the retrained model’s first answer",
        ),
        (
            format!("{} → {}", cycles(old), cycles(new)),
            "cycles of error (RMSE) in the answers to new engines, before and after",
        ),
        (
            format!("{} <small>of {}</small>", incident.failed_requests, thousands(incident.requests)),
            "requests failed, while the model was exchanged under way",
        ),
    ];
    let mut figures = String::new();
    for (number, text) in tiles {
        let _ = write!(figures, "<div><b>{number}</b><span>{text}</span></div>");
    }
    let lead = format!(
        "A model that had learned the engines of {} was in service when engines of {} came in, which fly in {} \
         operating regimes. What follows is what the programs did about it, and what it was worth.",
        escape(&found.data.usual.name),
        escape(&found.data.new.name),
        if found.data.new.name == "FD002" { "six" } else { "other" }
    );
    format!(
        "<header>\n<p class=\"kicker\">rul demo · {day} · {kind}</p>\n<h1>{}</h1>\n<p class=\"lead\"><span class=\"verdict\">recovered</span> {lead}</p>\n<div class=\"figures\">{figures}</div>\n</header>\n",
        escape(&incident.verdict())
    )
}

fn timeline(story: &Story<'_>) -> String {
    let caption = "All on one clock. The ribbons say who was at work and what the drift watch thought, second by second. The curves below show \
                   why: the share of the traffic that flies in other regimes than the served model’s training engines did, then the answers, their latency \
                   from the moment each request was due, and how wrong they were. The paler end of the retraining is the comparison of both models.";
    let old = format!("version {}, the champion", story.found.champion);
    let new = format!("version {}, retrained", story.found.challenger);
    let usual = format!("{}: usual engines", story.found.data.usual.name);
    let fresh = format!("{}: new engines", story.found.data.new.name);
    let legend = [("old", old.as_str()), ("new", &new), ("usual", &usual), ("fresh", &fresh)];
    section("What happened", caption, &(tables::moments(story) + &figure(&legend, &course::figure(story))))
}

fn errors(story: &Story<'_>) -> String {
    let data = &story.found.data;
    let caption = format!(
        "Both models predict every window of {} held-out engines of {} ({}). A dot on the diagonal is right; above it the model promises more life than there is, \
         which is the dangerous side. Remaining lives above {:.0} cycles count as that: wear cannot be seen before it begins.",
        data.new.test.fleet.engines.len(),
        escape(&data.new.name),
        escape(data.new.held_out),
        story.champion.artifact.model.cap()
    );
    let more = format!(
        "<p class=\"caption\" style=\"margin-top:34px\">The same errors by how much life was left, for both kinds of engines. The right panel is what retraining was for; the left one shows what it did to the \
         engines of {} that the champion knew.</p>",
        escape(&data.usual.name)
    );
    let legend = [("old", "champion"), ("new", "challenger")];
    let content = figure(&[], &scatter::figure(story)) + &more + &figure(&legend, &scatter::by_truth(story));
    section("Is the new model better?", &caption, &content)
}

fn inputs(story: &Story<'_>) -> String {
    let caption = "Bars are what the service saw, read from its own memory of recent requests; the line is the baseline that the served model carries \
                   with it: what it was trained on. In the middle column they part; in the right one the new model’s baseline fits again. No threshold was touched for that.";
    let legend =
        [("old", "seen under the champion"), ("new", "seen under the challenger"), ("stroke trained", "trained on")];
    let content = figure(&legend, &histograms::regimes(story))
        + "<p class=\"caption\" style=\"margin-top:30px\">One sensor of many, the temperature behind the low-pressure turbine: each regime has a level of its own, far from the one that the champion knew.</p>"
        + &figure(&[], &histograms::sensor(story))
        + "<p class=\"caption\" style=\"margin-top:30px\">The predictions. They may part from the baseline without any drift, since the engines in service are not as old as those of the training set; the watch therefore compares at equal age.</p>"
        + &figure(&[], &histograms::predictions(story));
    section("What the service saw", caption, &content)
}

fn decision(story: &Story<'_>) -> String {
    let reason = story.found.decision["decision_reason"].as_str().unwrap_or_default();
    let caption = format!(
        "<code>rul promote</code> compares both models on the same held-out engines of {} and moves the alias only if every rule holds. Its reason: {}.",
        escape(&story.found.data.new.name),
        escape(reason)
    );
    section("Why it was promoted", &caption, &tables::decision(story))
}

fn ran(story: &Story<'_>) -> String {
    let caption = "Every step is the program that runs in a cluster, as a process of its own on this machine. One thing is a stand-in: in place of Alertmanager, the \
                   demo takes the watch’s alert at the same API and delivers it to the trigger as the same webhook (payload version 4).";
    section("What ran", caption, &(tables::programs(story) + &tables::facts(story)))
}
