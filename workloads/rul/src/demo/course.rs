//! The course of the demo, from the first training to the second all-clear. Every step is a program of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Client;
use serde_json::Value;

use super::commands::Commands;
use super::data::Data;
use super::error::Error;
use super::house::{House, Who};
use super::looks::Look;
use super::options::Options;
use super::relay::{Delivery, Relay};
use super::ring::Follower;
use super::samples::{self, Sample};
use crate::drift::service::Entry;
use crate::registry::{PRODUCTION, STAGING};

pub const MODEL: &str = "cmapss-rul";
/// How far back the drift watch looks: 300 records and more at the demo's rates.
pub const WINDOW: Duration = Duration::from_secs(6);
/// The traffic goes on for so long after the second all-clear, which must stay so.
const AFTER: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(5);

/// The moments of the incident.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// The champion is served and the watch says ok.
    pub t0: Timestamp,
    /// The first request of a new engine is due.
    pub t1: Timestamp,
    /// The watch's alert is taken by the trigger.
    pub t2: Timestamp,
    /// The retraining starts.
    pub t3: Timestamp,
    /// The alias points to the challenger.
    pub t4: Timestamp,
    /// The watch says ok again, of the challenger with its own baseline.
    pub t5: Timestamp,
    /// The retraining has ended.
    pub trained: Timestamp,
    /// The challenger's first answer is due.
    pub live: Timestamp,
}

impl Moments {
    /// All that happened, in the order in which it must.
    pub fn in_order(&self) -> bool {
        [self.t0, self.t1, self.t2, self.t3, self.t4, self.t5].is_sorted_by(|a, b| a < b)
    }
}

/// Everything that was found on the way.
#[derive(Debug)]
pub struct Findings {
    pub data: Data,
    pub registry: PathBuf,
    pub moments: Moments,
    pub champion: String,
    pub challenger: String,
    /// The line of `rul promote`.
    pub decision: Value,
    pub looks: Vec<Look>,
    pub deliveries: Vec<Delivery>,
    /// What the service remembered of its predictions.
    pub entries: Vec<Entry>,
    /// The report of `rul simulate`.
    pub traffic: Value,
    pub samples: Vec<Sample>,
    /// When `samples` count from.
    pub traffic_began: Timestamp,
    pub rate: f64,
}

/// The addresses of everything that is running.
struct Running {
    service: String,
    simulate: Who,
    drift: Who,
    trigger: Who,
    relay: Relay,
    follower: Follower,
    samples: PathBuf,
    /// When the new engines come, in seconds after the demo's start.
    new_due: f64,
}

/// Goes through all of it.
///
/// # Errors
/// The first step that did not happen as it should, with the last log lines of the program that did it.
pub async fn course(house: &mut House, options: &Options) -> Result<Findings, Error> {
    let client = crate::http::client(PATIENCE).map_err(Error::Start)?;
    let data = Data::prepare(options, &house.dir.join("data"))?;
    let kind = if data.generated { "look-alike" } else { "given" };
    for set in [&data.usual, &data.new] {
        house.say(&format!("T0 {kind} {}", set.told()));
    }
    let commands = Commands { options, data: &data, dir: house.dir.clone() };
    let registry = commands.registry();
    let champion = first_model(house, &commands).await?;
    let running = start(house, &commands, &client).await?;
    let t0 = all_clear(house, &running, &champion).await?;
    let t1_about = drift(house, &running, options).await?;
    let (t2, t3, trained) = retraining(house, &running).await?;
    let (challenger, decision) = promotion(house, &commands, &champion).await?;
    let t4 = moved(&registry)?;
    house.say(&format!("T4 {}: the alias {PRODUCTION} points to version {challenger}", said(&decision)));
    live(house, &running, &client, &challenger).await?;
    let t5 = all_clear_again(house, &running, &challenger).await?;
    let looks = stays_clear(house, &running, &challenger, t5).await?;
    let (traffic, rows) = end_of_traffic(house, &running).await?;
    let traffic_began = began(&traffic).ok_or_else(|| house.outcome("rul simulate did not say when it began"))?;
    let after = |s: f64| traffic_began.saturating_add(Duration::from_secs_f64(s)).unwrap_or(traffic_began);
    let first = |keep: &dyn Fn(&Sample) -> bool| rows.iter().filter(|s| keep(s)).map(|s| s.at).min_by(f64::total_cmp);
    let t1 = first(&|s| s.drifted).map_or(t1_about, &after);
    let live = first(&|s| s.model_version == challenger).map_or(t5, &after);
    let moments = Moments { t0, t1, t2, t3, t4, t5, trained, live };
    if !moments.in_order() {
        return Err(house.outcome(format!("the moments are not in their order: {moments:?}")));
    }
    Ok(Findings {
        data,
        registry,
        moments,
        champion,
        challenger,
        decision,
        looks,
        deliveries: running.relay.deliveries(),
        entries: running.follower.entries(),
        traffic,
        samples: rows,
        traffic_began,
        rate: options.rate,
    })
}

async fn first_model(house: &mut House, commands: &Commands<'_>) -> Result<String, Error> {
    house.step = "T0 training the champion".to_owned();
    let (begin, name) = (house.seconds(), &commands.data.usual.name);
    house.run("train", &commands.train()).await?;
    house.say(&format!("T0 champion trained on {name} in {:.1} s", house.seconds() - begin));
    house.step = "T0 promoting the champion".to_owned();
    let decision = promote(house, &commands.promote(name, None)).await?;
    let version = decision["new_version"].as_str().unwrap_or_default().to_owned();
    house.say(&format!("T0 version {version} is {PRODUCTION}: {}", said(&decision)));
    Ok(version)
}

fn said(decision: &Value) -> &str {
    decision["decision_reason"].as_str().unwrap_or("it gives no reason")
}

/// Runs `rul promote`, which must promote.
async fn promote(house: &mut House, line: &[String]) -> Result<Value, Error> {
    let out = house.run("promote", line).await?;
    let decision: Value = out.last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    if decision["promoted"] == true {
        return Ok(decision);
    }
    let (old, new) = (&decision["champion_rmse"], &decision["challenger_rmse"]);
    let reason = said(&decision);
    Err(house.outcome(format!("the challenger lost: {reason} (RMSE {old} of the champion, {new} of the challenger)")))
}

async fn start(house: &mut House, commands: &Commands<'_>, client: &Client) -> Result<Running, Error> {
    house.step = "T0 starting the services".to_owned();
    let serve = house.start("serve", &commands.serve())?;
    let service = format!("http://{}", house.address(serve).await?);
    let trigger = house.start("trigger", &commands.trigger(&house.exe()))?;
    let url = format!("http://{}", house.address(trigger).await?);
    let relay = Relay::start(&url, &house.token, client.clone()).await?;
    house.until("the service to load the model", |house| house.event(serve, "model_loaded")).await?;
    house.say(&format!(
        "T0 serving at {service}; alerts go to {url} through the demo's relay, which stands in Alertmanager's place"
    ));
    let simulate = house.start("simulate", &commands.simulate(&service))?;
    let new_due = house.seconds() + commands.options.calm.as_secs_f64();
    let drift = house.start("drift", &commands.drift(&service, &relay.url))?;
    let follower = Follower::start(&service, &house.token, client);
    Ok(Running { service, simulate, drift, trigger, relay, follower, samples: commands.samples(), new_due })
}

/// The first look at which `keep` holds.
async fn look(house: &mut House, running: &Running, what: &str, keep: impl Fn(&Look) -> bool) -> Result<Look, Error> {
    let mut known = 0;
    let found = house
        .until(what, |house| {
            let looks = Look::all(house.out(running.drift));
            let found = looks.iter().skip(known).find(|look| keep(look)).cloned();
            known = looks.len();
            found
        })
        .await;
    found.map_err(|mut error| {
        if let (Error::Waited { last, .. }, Some(look)) = (&mut error, Look::all(house.out(running.drift)).last()) {
            *last = format!("It said last: {}; {last}", look.sentence);
        }
        error
    })
}

async fn all_clear(house: &mut House, running: &Running, champion: &str) -> Result<Timestamp, Error> {
    house.step = "T0 usual traffic".to_owned();
    let look =
        look(house, running, "the drift watch to say ok", |look| look.is_ok_with(champion) || look.state == "drift")
            .await?;
    if look.state != "ok" && house.seconds() >= running.new_due {
        let reason =
            "the new engines came before the drift watch had seen enough usual traffic: give it more with --calm";
        return Err(house.outcome(reason));
    }
    if look.state != "ok" {
        return Err(house.outcome(format!("drift where there is none: {}", look.sentence)));
    }
    house.say(&format!("T0 drift watch: ok. {} ({} records)", look.sentence, look.records));
    Ok(look.at)
}

async fn drift(house: &mut House, running: &Running, options: &Options) -> Result<Timestamp, Error> {
    house.step = "T1 new engines".to_owned();
    let due = running.new_due;
    house.until("the new engines to come", |house| (house.seconds() >= due).then_some(())).await?;
    let t1 = Timestamp::now();
    house.say(&format!("T1 engines of {} come into service", options.new_dataset));
    house.step = "T2 finding the drift".to_owned();
    let look = look(house, running, "the drift watch to say drift", |look| look.state == "drift").await?;
    house.say(&format!("T2 drift watch: {}", look.sentence));
    if look.at <= t1 {
        return Err(house.outcome(format!("drift before there was any: {}", look.sentence)));
    }
    Ok(t1)
}

/// When the alert was taken, the retraining started, and when it ended.
async fn retraining(house: &mut House, running: &Running) -> Result<(Timestamp, Timestamp, Timestamp), Error> {
    let relay = running.relay.clone();
    let delivery = house
        .until("the alert to reach the trigger", |_| relay.deliveries().into_iter().find(|d| d.status == "firing"))
        .await?;
    house.say(&format!("T2 alert: {}; the trigger answers {}", delivery.summary, delivery.answer["decision"]));
    house.step = "T3 retraining".to_owned();
    let (t3, started) =
        house.until("the retraining to start", |house| house.event(running.trigger, "run_started")).await?;
    house.say(&format!("T3 retraining runs as {}", started["run"].as_str().unwrap_or("?")));
    let (trained, end) = house
        .until("the retraining to end", |house| {
            let ended = |name| house.event(running.trigger, name);
            ended("run_failed").or_else(|| ended("run_succeeded"))
        })
        .await?;
    if end["event"] == "run_failed" {
        return Err(house.outcome(format!("the retraining failed: {}", end["reason"])));
    }
    house.say(&format!("T3 retraining ended after {:.1} s", seconds(t3, trained)));
    // The alert is at the trigger before the run starts, but its answer is read after.
    Ok((delivery.at, t3, trained))
}

/// From one moment to a later one.
pub fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

async fn promotion(house: &mut House, commands: &Commands<'_>, champion: &str) -> Result<(String, Value), Error> {
    house.step = "T4 comparing champion and challenger".to_owned();
    let staging = commands.registry().join(MODEL).join("aliases").join(STAGING);
    let read = std::fs::read_to_string(&staging).map_err(Error::io(staging.display().to_string()));
    let version = read?.trim().to_owned();
    if version == champion {
        return Err(house.outcome("the retraining has registered no new version"));
    }
    let decision = promote(house, &commands.promote(&commands.data.new.name, Some(&version))).await?;
    Ok((version, decision))
}

/// When the served alias was moved: its file appears by a rename.
fn moved(registry: &Path) -> Result<Timestamp, Error> {
    let alias = registry.join(MODEL).join("aliases").join(PRODUCTION);
    let time =
        std::fs::metadata(&alias).and_then(|file| file.modified()).map_err(Error::io(alias.display().to_string()))?;
    Timestamp::try_from(time).map_err(|e| Error::Start(format!("{}: {e}", alias.display())))
}

async fn live(house: &mut House, running: &Running, client: &Client, challenger: &str) -> Result<(), Error> {
    house.step = "T5 reloading".to_owned();
    let follower = running.follower.clone();
    house
        .until("the service to answer with the new version", |_| follower.has_version(challenger).then_some(()))
        .await?;
    let shown = client.get(format!("{}/v1/model", running.service)).send().await;
    let sha256 = match shown {
        Ok(answer) => answer.json::<Value>().await.ok().and_then(|model| model["sha256"].as_str().map(str::to_owned)),
        Err(_) => None,
    };
    let sha256 = sha256.unwrap_or_default();
    house.say(&format!("T5 version {challenger} answers ({MODEL} {})", crate::drift::baseline::short(&sha256)));
    Ok(())
}

async fn all_clear_again(house: &mut House, running: &Running, challenger: &str) -> Result<Timestamp, Error> {
    let what = "the drift watch to say ok with the new version's own baseline";
    let judged = |look: &Look| look.state == "drift" && look.version.as_deref() == Some(challenger);
    let look = look(house, running, what, |look| look.is_ok_with(challenger) || judged(look)).await?;
    if judged(&look) {
        return Err(house.outcome(format!("version {challenger} drifts as well: {}", look.sentence)));
    }
    house.say(&format!("T5 drift watch: ok. {} ({} records)", look.sentence, look.records));
    Ok(look.at)
}

/// All looks; none after the second all-clear sees drift again.
async fn stays_clear(
    house: &mut House,
    running: &Running,
    challenger: &str,
    t5: Timestamp,
) -> Result<Vec<Look>, Error> {
    let until = house.seconds() + AFTER.as_secs_f64();
    house.until("some seconds to pass", |house| (house.seconds() >= until).then_some(())).await?;
    let looks = Look::all(house.out(running.drift));
    if let Some(worse) = looks.iter().find(|look| look.at > t5 && look.state == "drift") {
        return Err(house.outcome(format!("version {challenger} drifts as well: {}", worse.sentence)));
    }
    Ok(looks)
}

async fn end_of_traffic(house: &mut House, running: &Running) -> Result<(Value, Vec<Sample>), Error> {
    house.step = "T5 end of the traffic".to_owned();
    let (out, _) = house.finish(running.simulate).await?;
    let report: Value = out.last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let failed = report["failed"].as_u64();
    let (answered, errors) = (report["answered"].as_u64().unwrap_or(0), &report["errors"]);
    if failed != Some(0) || answered == 0 {
        let failed = failed.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
        return Err(house.outcome(format!("{failed} requests failed: {errors}")));
    }
    house.say(&format!("T5 {answered} requests answered, none failed"));
    let csv = std::fs::read_to_string(&running.samples).map_err(Error::io(running.samples.display().to_string()))?;
    Ok((report, samples::read(&csv)))
}

fn began(report: &Value) -> Option<Timestamp> {
    report["started_at"].as_str()?.parse().ok()
}
