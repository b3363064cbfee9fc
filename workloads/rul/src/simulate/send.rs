//! Sends windows when they are due, over several connections.

use std::cell::RefCell;
use std::fmt::Write;
use std::future::Future;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::Error;
use super::client::{Address, Answer, Client};
use super::report::{Recorder, Report, Sample};
use super::traffic::{Traffic, Window};

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Requests per second.
    PerSecond(f64),
    /// One after the other on every connection.
    Max,
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().unwrap_or(f64::NAN);
        if number > 0.0 && number <= 1e6 {
            Ok(Self::PerSecond(number))
        } else {
            Err(format!("{text:?}: write 20/s, or max"))
        }
    }
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Predict,
    V2,
    /// Windows per request of KServe's V1 protocol.
    Batch(usize),
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "predict" => Ok(Self::Predict),
            "v2" => Ok(Self::V2),
            _ => {
                let size = text.strip_prefix("batch:").and_then(|size| size.parse().ok());
                let size = size.filter(|size| (1..=4096).contains(size));
                size.map(Self::Batch)
                    .ok_or_else(|| format!("{text:?}: write predict, v2, or batch:N with N up to 4096"))
            }
        }
    }
}

/// What to send where.
#[derive(Debug, Clone)]
pub struct Load {
    pub url: String,
    pub pace: Pace,
    pub connections: usize,
    /// Ends by time...
    pub duration: Option<Duration>,
    /// ... or by number of requests.
    pub count: Option<u64>,
    pub protocol: Protocol,
    pub model_name: String,
}

impl Load {
    fn path(&self) -> String {
        match self.protocol {
            Protocol::Predict => "/predict".to_owned(),
            Protocol::V2 => format!("/v2/models/{}/infer", self.model_name),
            Protocol::Batch(_) => format!("/v1/models/{}:predict", self.model_name),
        }
    }

    fn windows(&self) -> usize {
        if let Protocol::Batch(size) = self.protocol { size } else { 1 }
    }
}

fn body(protocol: Protocol, windows: &[Window]) -> String {
    let mut text = String::with_capacity(windows.iter().map(|window| window.rows.len() + 64).sum());
    let list = |text: &mut String, of: &dyn Fn(&Window) -> String| {
        for (index, window) in windows.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(text, "{comma}{}", of(window));
        }
    };
    match (protocol, windows) {
        (Protocol::Predict, [window, ..]) => {
            let (engine, cycle, rows) = (&window.engine, window.cycle, &window.rows);
            let _ = write!(text, r#"{{"engine":"{engine}","cycle":{cycle},"sequence":{rows}}}"#);
        }
        (Protocol::V2, [window, ..]) => {
            let (engine, cycle, rows) = (&window.engine, window.cycle, &window.rows);
            let _ = write!(
                text,
                r#"{{"parameters":{{"engine":"{engine}","cycle":{cycle}}},"inputs":[{{"name":"input","shape":[1,30,16],"datatype":"FP32","data":[{rows}]}}]}}"#
            );
        }
        _ => {
            text.push_str(r#"{"engines":["#);
            list(&mut text, &|window| format!("\"{}\"", window.engine));
            text.push_str(r#"],"cycles":["#);
            list(&mut text, &|window| window.cycle.to_string());
            text.push_str(r#"],"instances":["#);
            list(&mut text, &|window| window.rows.clone());
            text.push_str("]}");
        }
    }
    text
}

/// What all three protocols answer, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Predicted {
    rul: Option<f64>,
    predictions: Option<Vec<f64>>,
    outputs: Option<Vec<Output>>,
    model_version: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Output {
    data: Vec<f64>,
}

impl Predicted {
    fn numbers(self) -> Vec<f64> {
        let first = || self.outputs.and_then(|outputs| outputs.into_iter().next()).map(|output| output.data);
        self.rul.map(|rul| vec![rul]).or(self.predictions).or_else(first).unwrap_or_default()
    }
}

/// What the connections share; all of them run on one thread.
struct Shared {
    traffic: Traffic,
    recorder: Recorder,
    next: u64,
}

/// Sends until the end of `load`, or until `stop`.
///
/// # Errors
/// When the URL is none. A service that does not answer is in the report.
pub async fn run(
    load: &Load,
    traffic: Traffic,
    stop: impl Future<Output = ()>,
    mut say: impl FnMut(&str),
) -> Result<Report, Error> {
    let address = Address::parse(&load.url)?;
    let start = Instant::now();
    let shared = Rc::new(RefCell::new(Shared { traffic, recorder: Recorder::new(), next: 0 }));
    let sending = futures_of(load, &address, start, &shared);
    tokio::pin!(stop);
    tokio::pin!(sending);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = &mut sending => break,
            () = &mut stop => break,
            _ = ticks.tick() => say(&shared.borrow().recorder.line(start.elapsed())),
        }
    }
    let report = shared.borrow_mut().recorder.finish(start.elapsed());
    Ok(report)
}

async fn futures_of(load: &Load, address: &Address, start: Instant, shared: &Rc<RefCell<Shared>>) {
    let path = load.path();
    let mut connections: Vec<_> = (0..load.connections)
        .map(|_| Box::pin(connection(load, &path, Client::new(address.clone()), start, shared)))
        .collect();
    std::future::poll_fn(|context| {
        connections.retain_mut(|connection| connection.as_mut().poll(context).is_pending());
        if connections.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn connection(load: &Load, path: &str, mut client: Client, start: Instant, shared: &Rc<RefCell<Shared>>) {
    loop {
        let index = {
            let mut shared = shared.borrow_mut();
            shared.next += 1;
            shared.next - 1
        };
        let due = match load.pace {
            Pace::PerSecond(rate) => Duration::from_secs_f64(index as f64 / rate),
            Pace::Max => start.elapsed(),
        };
        if load.count.is_some_and(|count| index >= count) || load.duration.is_some_and(|end| due >= end) {
            return;
        }
        if load.pace != Pace::Max {
            tokio::time::sleep_until(start + due).await;
        }
        let windows: Vec<_> = {
            let mut shared = shared.borrow_mut();
            (0..load.windows()).map(|_| shared.traffic.window(due)).collect()
        };
        let answer = client.post(path, &body(load.protocol, &windows)).await;
        let latency = start.elapsed().saturating_sub(due);
        let mut shared = shared.borrow_mut();
        record(&mut shared.recorder, due, latency, &windows, answer);
        shared.recorder.opened(client.opened);
        client.opened = 0;
    }
}

fn record(recorder: &mut Recorder, due: Duration, latency: Duration, windows: &[Window], answer: Answer) {
    let predicted = match answer {
        Answer::Failed(kind) => return recorder.failed(kind),
        Answer::Body(bytes) => serde_json::from_slice::<Predicted>(&bytes),
    };
    let Ok(mut predicted) = predicted else { return recorder.failed("answer".into()) };
    let version = predicted.model_version.take().unwrap_or_default();
    let numbers = predicted.numbers();
    if numbers.len() != windows.len() || numbers.iter().any(|number| !number.is_finite()) {
        return recorder.failed("answer".into());
    }
    let samples = windows.iter().zip(numbers).map(|(window, rul)| Sample {
        at: due.as_secs_f64(),
        engine: window.engine.clone(),
        cycle: window.cycle,
        truth: window.truth,
        rul,
        drifted: window.drifted,
        model_version: version.clone(),
        latency_ms: latency.as_secs_f64() * 1000.0,
    });
    recorder.answered(latency, samples);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn window(engine: &str) -> Window {
        Window { rows: "[[1,2],[3,4]]".into(), engine: engine.into(), cycle: 31, truth: 9.0, drifted: false }
    }

    #[test]
    fn bodies_are_json_of_the_three_protocols() {
        let parsed =
            |protocol, windows: &[Window]| serde_json::from_str::<serde_json::Value>(&body(protocol, windows)).unwrap();
        let predict = parsed(Protocol::Predict, &[window("e-1")]);
        assert_eq!((predict["engine"].as_str(), predict["cycle"].as_u64()), (Some("e-1"), Some(31)));
        assert_eq!(predict["sequence"][1][0], 3);
        assert_eq!(parsed(Protocol::V2, &[window("x")])["inputs"][0]["data"][0][0][1], 2);
        let batch = parsed(Protocol::Batch(2), &[window("a"), window("b")]);
        assert_eq!((batch["instances"].as_array().unwrap().len(), batch["engines"][1].as_str()), (2, Some("b")));
    }

    #[test]
    fn rates_and_protocols_are_read() {
        assert_eq!("20/s".parse(), Ok(Pace::PerSecond(20.0)));
        assert_eq!("max".parse(), Ok(Pace::Max));
        assert_eq!("batch:32".parse(), Ok(Protocol::Batch(32)));
        for wrong in ["", "0", "-1/s", "fast", "inf"] {
            assert!(wrong.parse::<Pace>().is_err(), "{wrong}");
        }
        for wrong in ["", "batch", "batch:0", "v1"] {
            assert!(wrong.parse::<Protocol>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_a_failure() {
        let mut recorder = Recorder::new();
        let mut answer = |text: &str| {
            let answer = Answer::Body(text.as_bytes().to_vec());
            record(&mut recorder, Duration::ZERO, Duration::ZERO, &[window("e")], answer);
        };
        for wrong in ["", "{}", r#"{"predictions":[1,2]}"#, r#"{"rul":null}"#] {
            answer(wrong);
        }
        answer(r#"{"rul":12.5,"model_version":"7"}"#);
        answer(r#"{"outputs":[{"name":"output","data":[3]}],"model_version":"7"}"#);
        let report = recorder.finish(Duration::from_secs(1));
        assert_eq!((report.answered, report.failed()), (2, 4));
        assert_eq!(report.errors.get("answer"), Some(&4));
        assert_eq!(report.versions["7"].windows, 2);
    }
}
