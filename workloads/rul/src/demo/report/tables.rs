//! The report's tables.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;

use super::Story;
use super::svg::escape;
use crate::demo::course::seconds;
use crate::demo::scores::Model;

fn table(head: &[(&str, &str)], rows: &[Vec<(&str, String)>]) -> String {
    let mut text = "<table>\n<tr>".to_owned();
    for (class, name) in head {
        let _ = write!(text, "<th class=\"{class}\">{}</th>", escape(name));
    }
    text.push_str("</tr>\n");
    for row in rows {
        text.push_str("<tr>");
        for (class, cell) in row {
            let _ = write!(text, "<td class=\"{class}\">{cell}</td>");
        }
        text.push_str("</tr>\n");
    }
    text + "</table>\n"
}

/// T0 to T5.
pub fn moments(story: &Story<'_>) -> String {
    let (found, m) = (story.found, &story.found.moments);
    let (usual, new) = (&found.data.usual.name, &found.data.new.name);
    let alert = found.deliveries.iter().find(|d| d.status == "firing");
    let cause = alert.map_or("", |d| d.cause.as_str());
    let sentence = found.looks.iter().find(|l| l.state == "drift").map_or("", |l| l.sentence.as_str());
    let again = found.looks.iter().find(|l| l.is_ok_with(&found.challenger)).map_or("", |l| l.sentence.as_str());
    let lines: [(&str, Timestamp, String); 6] = [
        (
            "T0",
            m.t0,
            format!(
                "Version {} is trained on {usual}, promoted as the first model and served; the watch says ok.",
                found.champion
            ),
        ),
        (
            "T1",
            m.t1,
            format!(
                "Engines of {new} come into service: {:.0} % of the traffic from now on.",
                100.0 * found.data.new_share()
            ),
        ),
        ("T2", m.t2, format!("{sentence} The alert (cause: {cause}) reaches the trigger.")),
        (
            "T3",
            m.t3,
            format!(
                "The trigger starts a retraining on {usual} and {new}, beginning with the champion’s weights. It takes {:.1} s.",
                seconds(m.t3, m.trained)
            ),
        ),
        (
            "T4",
            m.t4,
            format!(
                "Version {} is better on held-out engines: the alias moves. {:.1} s later it answers.",
                found.challenger,
                seconds(m.t4, m.live)
            ),
        ),
        ("T5", m.t5, format!("{again} This is said of version {} with its own baseline.", found.challenger)),
    ];
    let mut before = None;
    let rows: Vec<Vec<(&str, String)>> = lines
        .into_iter()
        .map(|(name, at, text)| {
            let step = before.replace(at).map_or_else(String::new, |b| span(seconds(b, at)));
            let clock = at.strftime("%H:%M:%S%.1f").to_string();
            let since = format!("{:.1} s", seconds(found.traffic_began, at));
            vec![("k", name.to_owned()), ("n", since), ("n", step), ("n", clock), ("", escape(&text))]
        })
        .collect();
    let head = [("", ""), ("n", "after the first request"), ("n", "step"), ("n", "UTC"), ("", "what happened")];
    table(&head, &rows)
}

/// With milliseconds where it is short.
fn span(seconds: f64) -> String {
    if seconds < 0.1 { format!("+{:.0} ms", 1000.0 * seconds) } else { format!("+{seconds:.1} s") }
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

fn rounded(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), |v| format!("{v:.2}"))
}

/// The rules of the promotion, with their numbers.
pub fn decision(story: &Story<'_>) -> String {
    let d = &story.found.decision;
    let holds = || ("yes", "holds".to_owned());
    let mut rows = vec![
        vec![
            ("", format!("RMSE is at least {} lower", percent(&d["min_improvement"]))),
            ("n", format!("{} cycles", rounded(&d["champion_rmse"]))),
            ("n", format!("{} cycles", rounded(&d["challenger_rmse"]))),
            ("n", format!("{} lower", percent(&d["improvement"]))),
            holds(),
        ],
        vec![
            (
                "",
                format!(
                    "that is no luck of the draw of engines ({} confidence, paired bootstrap)",
                    percent(&d["confidence"])
                ),
            ),
            ("n", String::new()),
            ("n", format!("better on {} of {} engines", d["engines_better"], d["engines"])),
            ("n", format!("at least {} lower", percent(&d["improvement_low"]))),
            holds(),
        ],
    ];
    for set in d["datasets"].as_array().into_iter().flatten() {
        let name = set["name"].as_str().unwrap_or_default();
        let (old, new) = (set["champion_nasa"].as_f64().unwrap_or(0.0), set["challenger_nasa"].as_f64().unwrap_or(0.0));
        let change = if old > 0.0 { format!("{:+.0} %", 100.0 * (new / old - 1.0)) } else { String::new() };
        rows.push(vec![
            (
                "",
                format!(
                    "NASA’s score on {}, which punishes late warnings, rises by no more than {}",
                    escape(name),
                    percent(&d["max_nasa_increase"])
                ),
            ),
            ("n", short(old)),
            ("n", short(new)),
            ("n", change.replace('-', "\u{2212}")),
            holds(),
        ]);
    }
    let head = [("", "rule"), ("n", "champion"), ("n", "challenger"), ("n", "difference"), ("", "")];
    table(&head, &rows)
}

/// NASA's score grows exponentially: of a model that is lost it has no use for digits.
fn short(score: f64) -> String {
    if score < 1e6 { format!("{score:.0}") } else { format!("{score:.1e}") }
}

/// Who ran when, and how it ended.
pub fn programs(story: &Story<'_>) -> String {
    let dir = story.house.dir.display().to_string();
    let exe = story.house.exe();
    let rows: Vec<_> = story
        .house
        .programs()
        .iter()
        .map(|p| {
            let command = p.command.replace(&dir, "$DIR").replace(&exe, "rul");
            vec![
                ("k", p.name.to_owned()),
                ("n", format!("{:.1} s", p.from_s)),
                ("n", format!("{:.1} s", p.seconds)),
                ("", p.status()),
                ("", format!("<code>{}</code>", words(&command))),
            ]
        })
        .collect();
    table(&[("", "program"), ("n", "began after"), ("n", "ran for"), ("", "end"), ("", "command")], &rows)
}

/// A command line that breaks between its words only.
fn words(command: &str) -> String {
    let words = command.split(' ').map(|word| format!("<span>{}</span>", escape(word)));
    words.collect::<Vec<_>>().join(" ")
}

/// What one needs to know to check or repeat it.
pub fn facts(story: &Story<'_>) -> String {
    let (found, incident) = (story.found, story.incident);
    let data = &found.data;
    let hash = |version: &str, model: &Model| format!("version {version}, <code>{}</code>", escape(model.sha256()));
    let metrics = |model: &Model| {
        let metrics = model.artifact.metrics.as_ref()?;
        Some(format!("trained in {:.1} s on {} windows", metrics.seconds, metrics.train_windows))
    };
    let with = |text: String, model: &Model| metrics(model).map_or(text.clone(), |m| format!("{text}, {m}"));
    let latency = |name: &str| rounded(&found.traffic["latency_ms"][name]);
    let facts = [
        ("Data", format!("{}; {}", escape(&data.usual.told()), escape(&data.new.told()))),
        (
            "Held-out files",
            format!("SHA-256 <code>{}</code>", escape(found.decision["data_sha256"].as_str().unwrap_or("?"))),
        ),
        ("Champion", with(hash(&found.champion, story.champion), story.champion)),
        ("Challenger", with(hash(&found.challenger, story.challenger), story.challenger)),
        (
            "Traffic",
            format!("{:.0} requests per second, {:.1} s", found.rate, found.traffic["seconds"].as_f64().unwrap_or(0.0)),
        ),
        (
            "Latency",
            format!(
                "p50 {} ms, p90 {}, p99 {}, p99.9 {}, longest {}, from the moment due",
                latency("p50"),
                latency("p90"),
                latency("p99"),
                latency("p999"),
                latency("max")
            ),
        ),
        ("States", escape(&incident.states.join(" → "))),
        (
            "Program",
            format!("rul {}, {} processors, {:.0} s in all", incident.rul_version, processors(), incident.seconds),
        ),
    ];
    let mut text = "<dl>".to_owned();
    for (name, fact) in facts {
        let _ = write!(text, "<dt>{name}</dt><dd>{fact}</dd>");
    }
    text + "</dl>\n"
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
