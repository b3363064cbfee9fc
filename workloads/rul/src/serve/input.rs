//! Bodies of `/predict` and of the KServe V1 endpoint: one window, 16 numbers for a smoke test, or
//! a batch; and, for those who tell, whom the windows are from.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::origin::{Cycle, Engine, List, Origins};
use super::reject::Reject;
use super::tensor::{Fault, Shaped, Sink, explain, twice};

/// Rows and columns of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub window: usize,
    pub features: usize,
}

impl Shape {
    pub fn numbers(self) -> usize {
        self.window * self.features
    }
}

/// What a body asks for.
#[derive(Debug, PartialEq)]
pub struct Windows {
    /// `count x window x features` numbers.
    pub numbers: Vec<f32>,
    pub count: usize,
    /// Asked with `instances`: the answer is a list, even of one.
    pub batch: bool,
    pub origins: Origins,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Sequence,
    Features,
    Instances,
}

impl Field {
    fn named(key: &str) -> Option<Self> {
        match key {
            "sequence" => Some(Self::Sequence),
            "features" => Some(Self::Features),
            "instances" => Some(Self::Instances),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::Features => "features",
            Self::Instances => "instances",
        }
    }
}

/// Reads a body.
///
/// # Errors
/// 400 when it is not JSON or does not have exactly one of `sequence`, `features`, `instances`; 422
/// when that one has the wrong type, shape or a number that is not finite.
pub fn parse(body: &[u8], shape: Shape, max_batch: usize) -> Result<Windows, Reject> {
    let mut reader = Reader {
        shape,
        max_batch,
        sink: None,
        given: Vec::new(),
        seen: Vec::new(),
        one: Origins::default(),
        many: Origins::default(),
        named: Vec::new(),
    };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = reader.deserialize(&mut json).and_then(|()| json.end());
    if let Err(error) = read {
        return Err(match explain(&error, reader.sink.as_ref(), body) {
            // Which of two is broken matters less than that there are two.
            Fault::Content(reason) => several(body).unwrap_or_else(|| Reject::unprocessable(reason)),
            Fault::Syntax(reason) => Reject::bad_request(reason),
        });
    }
    let field = match reader.given.as_slice() {
        [field] => *field,
        [] => {
            return Err(Reject::bad_request(format!(
                "give exactly one of \"sequence\" ({} rows of {} numbers), \"features\" ({} numbers) \
                 or \"instances\" (a list of windows); none is there",
                shape.window, shape.features, shape.features
            )));
        }
        several => return Err(too_many(several)),
    };
    let mut numbers = reader.sink.map(|sink| sink.numbers).unwrap_or_default();
    if field == Field::Features {
        numbers = numbers.repeat(shape.window);
    }
    let count = numbers.len() / shape.numbers();
    if count == 0 {
        return Err(Reject::unprocessable("instances: the list is empty"));
    }
    let batch = field == Field::Instances;
    let origins = check_origins(batch, count, reader.one, reader.many)?;
    Ok(Windows { numbers, count, batch, origins })
}

/// `engine` and `cycle` go with one window, `engines` and `cycles` with a batch.
fn check_origins(batch: bool, count: usize, one: Origins, many: Origins) -> Result<Origins, Reject> {
    let (right, wrong) = if batch { (many, one) } else { (one, many) };
    for (misplaced, name) in [(&wrong.engines.is_empty(), "engine"), (&wrong.cycles.is_empty(), "cycle")] {
        if !misplaced {
            let reason = if batch {
                format!("{name}: with \"instances\" give \"{name}s\", a list with one entry per window")
            } else {
                format!("{name}s: goes with \"instances\"; for one window give \"{name}\"")
            };
            return Err(Reject::unprocessable(reason));
        }
    }
    for (entries, name) in [(right.engines.len(), "engines"), (right.cycles.len(), "cycles")] {
        if entries != 0 && entries != count {
            return Err(Reject::unprocessable(format!("{name}: {entries} entries for {count} windows")));
        }
    }
    Ok(right)
}

fn too_many(given: &[Field]) -> Reject {
    let names: Vec<_> = given.iter().map(|f| format!("\"{}\"", f.name())).collect();
    Reject::bad_request(format!(
        "give exactly one of \"sequence\", \"features\" or \"instances\"; here are {}",
        names.join(", ")
    ))
}

/// The refusal of a body that has more than one of the fields.
fn several(body: &[u8]) -> Option<Reject> {
    #[derive(Deserialize)]
    struct Present {
        sequence: Option<IgnoredAny>,
        features: Option<IgnoredAny>,
        instances: Option<IgnoredAny>,
    }
    let present: Present = serde_json::from_slice(body).ok()?;
    let given: Vec<_> = [
        present.sequence.map(|_| Field::Sequence),
        present.features.map(|_| Field::Features),
        present.instances.map(|_| Field::Instances),
    ]
    .into_iter()
    .flatten()
    .collect();
    (given.len() > 1).then(|| too_many(&given))
}

struct Reader {
    shape: Shape,
    max_batch: usize,
    /// The first field that was given, as far as it was read.
    sink: Option<Sink>,
    given: Vec<Field>,
    seen: Vec<Field>,
    /// `engine` and `cycle`, as lists of one.
    one: Origins,
    /// `engines` and `cycles`.
    many: Origins,
    /// Which of these four were there.
    named: Vec<&'static str>,
}

impl Reader {
    /// Whether `key` is one of the four; then its value is read.
    fn origin<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        let known = ["engine", "cycle", "engines", "cycles"].into_iter().find(|known| *known == key);
        let Some(key) = known else { return Ok(false) };
        if self.named.contains(&key) {
            return Err(twice(key));
        }
        self.named.push(key);
        let limit = self.max_batch;
        match key {
            "engine" => self.one.engines = map.next_value_seed(Engine)?.map(|e| vec![Some(e)]).unwrap_or_default(),
            "cycle" => self.one.cycles = map.next_value_seed(Cycle)?.map(|c| vec![Some(c)]).unwrap_or_default(),
            "engines" => self.many.engines = map.next_value_seed(List { one: Engine, limit })?.unwrap_or_default(),
            _ => self.many.cycles = map.next_value_seed(List { one: Cycle, limit })?.unwrap_or_default(),
        }
        Ok(true)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reader {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"sequence\", \"features\" or \"instances\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Shape { window, features } = self.shape;
        // Other keys are ignored, as the service that this one replaces did.
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let Some(field) = Field::named(&key) else {
                if !self.origin(&key, &mut map)? {
                    map.next_value::<IgnoredAny>()?;
                }
                continue;
            };
            if self.seen.contains(&field) {
                return Err(twice(field.name()));
            }
            self.seen.push(field);
            if !self.given.is_empty() {
                if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                    self.given.push(field);
                }
                continue;
            }
            let full = [None, Some(window), Some(features)];
            let dims = match field {
                Field::Instances => &full[..],
                Field::Sequence => &full[1..],
                Field::Features => &full[2..],
            };
            let sink = self.sink.insert(Sink::new(field.name()));
            let present = map.next_value_seed(Shaped { sink, dims, limit: self.max_batch })?;
            if present {
                self.given.push(field);
            }
        }
        Ok(())
    }
}
