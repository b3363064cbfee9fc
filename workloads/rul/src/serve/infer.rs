//! Bodies of the Open Inference Protocol, version 2: one input tensor of windows in, one output
//! tensor of cycles out.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::input::Shape;
use super::reject::Reject;
use super::tensor::{Fault, Nested, Sink, explain, twice};

/// Name of the input tensor, that of the ONNX graph.
pub const INPUT: &str = "input";
/// Name of the output tensor, that of the ONNX graph.
pub const OUTPUT: &str = "output";

const DATATYPES: [&str; 4] = ["FP32", "FP64", "INT32", "INT64"];

/// A request, checked against the model.
#[derive(Debug, PartialEq)]
pub struct Infer {
    pub id: Option<String>,
    /// `count x window x features` numbers.
    pub numbers: Vec<f32>,
    pub count: usize,
}

/// An answer.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    pub model_name: &'a str,
    pub model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub outputs: [Output<'a>; 1],
}

#[derive(Debug, Serialize)]
pub struct Output<'a> {
    pub name: &'static str,
    pub datatype: &'static str,
    pub shape: [usize; 1],
    pub data: &'a [f32],
}

/// Reads a body.
///
/// # Errors
/// 400 always, as the protocol has it, with the reason.
pub fn parse(body: &[u8], shape: Shape, max_batch: usize) -> Result<Infer, Reject> {
    let mut reader = Reader { limit: max_batch.saturating_mul(shape.numbers()), ..Reader::default() };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = (&mut reader).deserialize(&mut json).and_then(|()| json.end());
    if let Err(error) = read {
        return Err(match explain(&error, reader.sink.as_ref(), body) {
            Fault::Content(reason) | Fault::Syntax(reason) => Reject::bad_request(reason),
        });
    }
    reader.check(shape, max_batch).map_err(Reject::bad_request)
}

#[derive(Debug, Default)]
struct Reader {
    limit: usize,
    id: Option<String>,
    inputs: Vec<Tensor>,
    outputs: Vec<Requested>,
    /// The data being read or last read.
    sink: Option<Sink>,
}

#[derive(Debug, Default)]
struct Tensor {
    name: Option<String>,
    shape: Option<Vec<usize>>,
    datatype: Option<String>,
    data: Option<Vec<usize>>,
}

#[derive(Debug, Deserialize)]
struct Requested {
    name: String,
}

impl Reader {
    fn check(self, shape: Shape, max_batch: usize) -> Result<Infer, String> {
        let Shape { window, features } = shape;
        let [tensor] = self.inputs.as_slice() else {
            return Err(format!("inputs: {} tensors, expected one, \"{INPUT}\"", self.inputs.len()));
        };
        let name = tensor.name.as_deref().ok_or("inputs[0]: name is missing")?;
        if name != INPUT {
            return Err(format!("inputs[0].name: \"{name}\", this model takes \"{INPUT}\""));
        }
        let datatype = tensor.datatype.as_deref().ok_or("inputs[0]: datatype is missing")?;
        if !DATATYPES.contains(&datatype) {
            return Err(format!("inputs[0].datatype: \"{datatype}\", this model takes {}", DATATYPES.join(", ")));
        }
        let asked = tensor.shape.as_deref().ok_or("inputs[0]: shape is missing")?;
        let count = match *asked {
            [n, w, f] if w == window && f == features => n,
            _ => {
                return Err(format!("inputs[0].shape: {asked:?}, this model takes [n, {window}, {features}]"));
            }
        };
        if count == 0 || count > max_batch {
            return Err(format!("inputs[0].shape: {count} windows, one request takes 1 to {max_batch}"));
        }
        let data = tensor
            .data
            .as_deref()
            .ok_or("inputs[0]: data is missing (tensors as binary after the JSON are not supported)")?;
        let total = count * shape.numbers();
        if data != [total] && data != asked {
            return Err(format!("inputs[0].data: shape {data:?}, expected {total} numbers, flat or as {asked:?}"));
        }
        if let Some(other) = self.outputs.iter().find(|o| o.name != OUTPUT) {
            return Err(format!("outputs: \"{}\", this model gives \"{OUTPUT}\"", other.name));
        }
        Ok(Infer { id: self.id, numbers: self.sink.map(|sink| sink.numbers).unwrap_or_default(), count })
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
        f.write_str("an inference request: an object with \"inputs\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match key.as_ref() {
                "id" => self.id = map.next_value()?,
                "outputs" => {
                    self.outputs = map.next_value::<Option<Vec<Requested>>>()?.unwrap_or_default();
                }
                "inputs" if seen => return Err(twice("inputs")),
                "inputs" => {
                    seen = true;
                    map.next_value_seed(Inputs(&mut *self))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Inputs<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for Inputs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inputs: a list of tensors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(()) = seq.next_element_seed(One(&mut *self.0))? {
            if self.0.inputs.len() > 1 {
                return Err(A::Error::custom(format!(
                    "inputs: more than one tensor, this model takes \"{INPUT}\" alone"
                )));
            }
        }
        Ok(())
    }
}

struct One<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor: an object with \"name\", \"shape\", \"datatype\" and \"data\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut tensor = Tensor::default();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match key.as_ref() {
                "name" => tensor.name = Some(map.next_value()?),
                "shape" => tensor.shape = Some(map.next_value()?),
                "datatype" => tensor.datatype = Some(map.next_value()?),
                "data" if tensor.data.is_some() => return Err(twice("data")),
                "data" => {
                    let limit = self.0.limit;
                    let sink = self.0.sink.insert(Sink::new("inputs[0].data"));
                    tensor.data = Some(map.next_value_seed(Nested { sink, limit })?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.0.inputs.push(tensor);
        Ok(())
    }
}
