//! Which window comes next: some engines in service, each a cycle further every time, and others in their place when they end.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cmapss::files::{TestSet, Text};
use cmapss::rng::Rng;
use cmapss::synth::{Flavour, Generator};
use cmapss::{FeatureSet, Fleet};

/// Cycles per window.
pub const WINDOW: usize = 30;
/// Engines to generate where there is no data.
const GENERATED: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error("{name} cannot be generated, only FD001, FD002 and FD003 can: choose one of them, or give --data DIR")]
    NotGenerated { name: String },
    #[error("{what} has no engine of {WINDOW} cycles or more: nothing can be sent")]
    NoEngine { what: String },
}

/// Where engines come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Directory with C-MAPSS files; without it engines are generated.
    pub data: Option<PathBuf>,
    pub test_set: bool,
    pub seed: u64,
}

/// Other engines from a moment on: `DATASET[:SHARE]@TIME[+TIME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    pub dataset: String,
    /// Share of the places that change over, above 0 up to 1.
    pub share: f64,
    pub at: Duration,
    /// Time in which the share of the new engines grows from none to its whole.
    pub within: Duration,
}

impl FromStr for Drift {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?}: write DATASET@TIME, DATASET:SHARE@TIME or DATASET@TIME+TIME, such as FD002:0.5@60s+30s")
        };
        let (dataset, time) = text.split_once('@').ok_or_else(wrong)?;
        let (dataset, share) = dataset.split_once(':').unwrap_or((dataset, "1"));
        let share = share.parse().ok().filter(|share| (f64::MIN_POSITIVE..=1.0).contains(share)).ok_or_else(wrong)?;
        let (at, within) = time.split_once('+').unwrap_or((time, "0s"));
        if dataset.is_empty() || time.is_empty() {
            return Err(wrong());
        }
        Ok(Self { dataset: dataset.to_owned(), share, at: super::duration(at)?, within: super::duration(within)? })
    }
}

/// One engine, its rows written once: windows share them.
#[derive(Debug)]
struct Life {
    id: u32,
    rows: Vec<String>,
    /// Remaining cycles after the last row.
    left: u32,
}

impl Life {
    fn true_rul(&self, cycle: usize) -> f64 {
        (self.rows.len() - cycle) as f64 + f64::from(self.left)
    }
}

/// A place in which one engine after the other serves.
#[derive(Debug, Clone, Copy)]
struct Slot {
    drifted: bool,
    life: usize,
    /// Cycles flown.
    cycle: usize,
    /// Tells engines of the same number apart: generations of this place.
    generation: u32,
}

/// The next window to send.
#[derive(Debug, Clone)]
pub struct Window {
    /// JSON list of rows, oldest first.
    pub rows: String,
    /// Which engine, different for every life in service.
    pub engine: String,
    /// Cycle of the last row.
    pub cycle: u32,
    /// True remaining life, cycles.
    pub truth: f64,
    pub drifted: bool,
}

/// A stream of windows that never ends. The same seed gives the same stream.
#[derive(Debug)]
pub struct Traffic {
    fleet: Vec<Life>,
    drift: Option<(Drift, Vec<Life>)>,
    slots: Vec<Slot>,
    next: usize,
    rng: Rng,
}

impl Traffic {
    /// # Errors
    /// Data that cannot be read or generated, or holds no engine that is long enough.
    pub fn new(origin: &Origin, dataset: &str, drift: Option<&Drift>, engines: usize) -> Result<Self, TrafficError> {
        let fleet = lives(origin, dataset)?;
        let drift =
            drift.map(|drift| Ok::<_, TrafficError>((drift.clone(), lives(origin, &drift.dataset)?))).transpose()?;
        let mut traffic = Self { fleet, drift, slots: Vec::new(), next: 0, rng: Rng::new(origin.seed) };
        for _ in 0..engines.max(1) {
            let slot = traffic.enter_midway(0, false);
            traffic.slots.push(slot);
        }
        Ok(traffic)
    }

    /// The window that is due `at` after the start.
    pub fn window(&mut self, at: Duration) -> Window {
        let index = self.next;
        self.next = (self.next + 1) % self.slots.len();
        let drifted = self.is_drifted(index, at);
        let mut slot = self.slots[index];
        if slot.drifted != drifted {
            slot = self.enter_midway(slot.generation + 1, drifted);
        } else if slot.cycle > self.life(&slot).rows.len() {
            slot = self.enter(slot.generation + 1, drifted);
        }
        let life = self.life(&slot);
        let window = Window {
            rows: format!("[{}]", life.rows[slot.cycle - WINDOW..slot.cycle].join(",")),
            engine: format!("{}-{index}-{}-{}", if drifted { "d" } else { "e" }, slot.generation, life.id),
            cycle: u32::try_from(slot.cycle).unwrap_or(u32::MAX),
            truth: life.true_rul(slot.cycle),
            drifted,
        };
        slot.cycle += 1;
        self.slots[index] = slot;
        window
    }

    fn life(&self, slot: &Slot) -> &Life {
        match &self.drift {
            Some((_, lives)) if slot.drifted => &lives[slot.life],
            _ => &self.fleet[slot.life],
        }
    }

    /// A new engine in a place, at its first full window.
    fn enter(&mut self, generation: u32, drifted: bool) -> Slot {
        let from = match &self.drift {
            Some((_, lives)) if drifted => lives,
            _ => &self.fleet,
        };
        Slot { drifted, life: self.rng.below(from.len()), cycle: WINDOW, generation }
    }

    /// An engine of another fleet: a fleet in service has engines of every age.
    fn enter_midway(&mut self, generation: u32, drifted: bool) -> Slot {
        let mut slot = self.enter(generation, drifted);
        let length = self.life(&slot).rows.len();
        slot.cycle += self.rng.below(length + 1 - WINDOW);
        slot
    }

    /// Places change over one after the other within the time that the drift takes.
    fn is_drifted(&self, index: usize, at: Duration) -> bool {
        self.drift.as_ref().is_some_and(|(drift, _)| {
            let places = drift.share * self.slots.len() as f64;
            let before = index as f64 / places;
            before < 1.0 && at >= drift.at + drift.within.mul_f64(before)
        })
    }
}

fn lives(origin: &Origin, dataset: &str) -> Result<Vec<Life>, TrafficError> {
    let (fleet, left) = fleet(origin, dataset)?;
    let features = FeatureSet::served();
    let row = |row: &cmapss::Row| {
        let numbers = features.columns().iter().map(|column| row.get(*column).to_string());
        format!("[{}]", numbers.collect::<Vec<_>>().join(","))
    };
    let long_enough: Vec<_> = fleet
        .engines
        .iter()
        .zip(left)
        .filter(|(engine, _)| engine.rows.len() >= WINDOW)
        .map(|(engine, left)| Life { id: engine.id, rows: engine.rows.iter().map(row).collect(), left })
        .collect();
    if long_enough.is_empty() {
        return Err(TrafficError::NoEngine { what: dataset.to_owned() });
    }
    Ok(long_enough)
}

/// Engines, and for each the cycles that it has left after its last row.
fn fleet(origin: &Origin, dataset: &str) -> Result<(Fleet, Vec<u32>), TrafficError> {
    let whole = |fleet: Fleet| {
        let left = vec![0; fleet.engines.len()];
        (fleet, left)
    };
    if let Some(dir) = &origin.data {
        if origin.test_set {
            let set = TestSet::read(dir, dataset)?;
            return Ok((set.fleet, set.rul));
        }
        return Ok(whole(Text::find(dir, &format!("train_{dataset}"))?.fleet()?));
    }
    let flavour = match dataset {
        "FD001" => Flavour::Fd001,
        "FD002" => Flavour::Fd002,
        "FD003" => Flavour::Fd003,
        _ => return Err(TrafficError::NotGenerated { name: dataset.to_owned() }),
    };
    let generator = Generator::new(flavour);
    if origin.test_set {
        let set = generator.test(GENERATED, origin.seed)?;
        return Ok((set.fleet, set.rul));
    }
    Ok(whole(generator.train(GENERATED, origin.seed)?))
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}s+{}s", self.dataset, self.share, self.at.as_secs_f64(), self.within.as_secs_f64())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn traffic(drift: Option<&str>, engines: usize) -> Traffic {
        let origin = Origin { data: None, test_set: false, seed: 3 };
        let drift: Option<Drift> = drift.map(|text| text.parse().unwrap());
        Traffic::new(&origin, "FD001", drift.as_ref(), engines).unwrap()
    }

    #[test]
    fn engines_age_by_one_cycle_and_are_replaced() {
        let mut traffic = traffic(None, 3);
        let mut last = std::collections::HashMap::new();
        for _ in 0..3000 {
            let window = traffic.window(Duration::ZERO);
            let rows: Vec<Vec<f64>> = serde_json::from_str(&window.rows).unwrap();
            assert_eq!((rows.len(), rows[0].len()), (WINDOW, 16));
            if let Some((cycle, truth)) = last.insert(window.engine, (window.cycle, window.truth)) {
                assert_eq!((window.cycle, window.truth), (cycle + 1, truth - 1.0));
            }
        }
        assert!(last.len() > 6, "only {} engines in 1000 cycles of 3 places", last.len());
        assert!(last.values().filter(|(_, truth)| *truth == 0.0).count() + 3 >= last.len());
    }

    #[test]
    fn the_same_seed_is_the_same_stream() {
        let (mut a, mut b) = (traffic(None, 5), traffic(None, 5));
        for _ in 0..200 {
            assert_eq!(a.window(Duration::ZERO).rows, b.window(Duration::ZERO).rows);
        }
    }

    #[test]
    fn drift_comes_at_its_moment_and_over_its_time() {
        let mut traffic = traffic(Some("FD002@10s+10s"), 10);
        let mut share = |at: u64| (0..10).filter(|_| traffic.window(Duration::from_secs(at)).drifted).count();
        assert_eq!([share(0), share(9), share(15), share(20)], [0, 0, 6, 10]);
    }

    #[test]
    fn a_share_of_the_places_changes_over_the_others_stay() {
        let mut traffic = traffic(Some("FD002:0.3@10s"), 10);
        let mut share = |at: u64| (0..10).filter(|_| traffic.window(Duration::from_secs(at)).drifted).count();
        assert_eq!([share(9), share(10), share(99)], [0, 3, 3]);
        for wrong in ["FD002:0@5s", "FD002:1.1@5s", "FD002:-1@5s", "FD002:NaN@5s", "FD002:@5s", ":1@5s"] {
            assert!(wrong.parse::<Drift>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let mut origin = Origin { data: None, test_set: false, seed: 3 };
        let error = Traffic::new(&origin, "FD004", None, 1).unwrap_err().to_string();
        assert!(error.contains("FD004") && error.contains("--data"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        origin.data = Some(dir.path().to_owned());
        assert!(Traffic::new(&origin, "FD001", None, 1).unwrap_err().to_string().contains("train_FD001"));
        for wrong in ["FD002", "@5s", "FD002@", "FD002@x", "FD002@5s+"] {
            let parsed = wrong.parse::<Drift>();
            assert!(parsed.is_err() || parsed.is_ok_and(|drift| drift.within.is_zero()), "{wrong}");
        }
    }
}
