//! Bodies of `/predict` and of the KServe V1 endpoint: one window, 16 numbers for a smoke test, or
//! a batch.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

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
    let mut reader = Reader { shape, max_batch, sink: None, given: Vec::new(), seen: Vec::new() };
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
    Ok(Windows { numbers, count, batch: field == Field::Instances })
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
                map.next_value::<IgnoredAny>()?;
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
