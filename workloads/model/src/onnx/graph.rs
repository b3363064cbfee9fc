//! As much of an ONNX file as recognising our graph needs. What is allocated is bounded by the
//! file's length; nested graphs are skipped, so nothing recurses.

use super::wire::{Message, Value, malformed};
use crate::Error;

/// Our graph has far fewer nodes, tensors or attributes than this.
const MAX_ITEMS: usize = 4096;

pub(super) const FLOAT: u64 = 1;
pub(super) const INT64: u64 = 7;

#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub opset: u64,
    pub nodes: Vec<Node<'a>>,
    pub tensors: Vec<Tensor<'a>>,
    pub inputs: Vec<Port<'a>>,
    pub outputs: Vec<Port<'a>>,
    pub metadata: Vec<(&'a str, &'a str)>,
}

#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub op: &'a str,
    pub domain: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: Vec<(&'a str, Attribute<'a>)>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Text(&'a [u8]),
    Ints(Vec<i64>),
    /// Something our graph never has.
    Other,
}

#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub dims: Vec<usize>,
    pub data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    /// Another type, or bytes in another file.
    Other,
}

/// An input or an output of the graph; `None` is a free dimension.
#[derive(Debug, Default)]
pub(super) struct Port<'a> {
    pub name: &'a str,
    pub element: u64,
    pub dims: Vec<Option<usize>>,
}

fn push<T>(list: &mut Vec<T>, item: T, what: &str) -> Result<(), Error> {
    if list.len() == MAX_ITEMS {
        return Err(Error::Foreign { reason: format!("it has more than {MAX_ITEMS} {what}") });
    }
    list.push(item);
    Ok(())
}

/// A field that must be a message (or text, or bytes).
fn message<'a>(value: Value<'a>, at: Message<'_>, what: &str) -> Result<Message<'a>, Error> {
    match value {
        Value::Bytes(m) => Ok(m),
        _ => Err(malformed(at.offset, format!("{what} has the wrong wire type"))),
    }
}

fn integer(value: Value<'_>, at: Message<'_>, what: &str) -> Result<u64, Error> {
    match value {
        Value::Varint(v) => Ok(v),
        _ => Err(malformed(at.offset, format!("{what} has the wrong wire type"))),
    }
}

/// Repeated integers, packed or not.
fn integers(list: &mut Vec<i64>, value: Value<'_>, at: Message<'_>, what: &str) -> Result<(), Error> {
    match value {
        Value::Varint(v) => push(list, v as i64, what),
        Value::Bytes(packed) => packed.varints().try_for_each(|v| push(list, v? as i64, what)),
        _ => Err(malformed(at.offset, format!("{what} have the wrong wire type"))),
    }
}

impl<'a> Graph<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let file = Message { bytes, offset: 0 };
        let mut out = Self::default();
        let mut seen_graph = false;
        for field in file.fields() {
            match field? {
                (7, v) => {
                    seen_graph = true;
                    out.graph(message(v, file, "graph")?)?;
                }
                (8, v) => out.opset_import(message(v, file, "opset_import")?)?,
                (14, v) => {
                    let (mut key, mut text) = ("", "");
                    let entry = message(v, file, "metadata_props")?;
                    for field in entry.fields() {
                        match field? {
                            (1, v) => key = message(v, entry, "metadata key")?.text()?,
                            (2, v) => text = message(v, entry, "metadata value")?.text()?,
                            _ => {}
                        }
                    }
                    push(&mut out.metadata, (key, text), "metadata entries")?;
                }
                _ => {}
            }
        }
        if !seen_graph {
            return Err(malformed(bytes.len(), "the file has no graph"));
        }
        Ok(out)
    }

    fn opset_import(&mut self, m: Message<'a>) -> Result<(), Error> {
        let (mut domain, mut version) = ("", 0);
        for field in m.fields() {
            match field? {
                (1, v) => domain = message(v, m, "opset domain")?.text()?,
                (2, v) => version = integer(v, m, "opset version")?,
                _ => {}
            }
        }
        if domain.is_empty() || domain == "ai.onnx" {
            self.opset = version;
        }
        Ok(())
    }

    fn graph(&mut self, m: Message<'a>) -> Result<(), Error> {
        for field in m.fields() {
            match field? {
                (1, v) => push(&mut self.nodes, node(message(v, m, "node")?)?, "nodes")?,
                (5, v) => push(&mut self.tensors, tensor(message(v, m, "initializer")?)?, "tensors")?,
                (11, v) => push(&mut self.inputs, port(message(v, m, "input")?)?, "inputs")?,
                (12, v) => push(&mut self.outputs, port(message(v, m, "output")?)?, "outputs")?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn node(m: Message<'_>) -> Result<Node<'_>, Error> {
    let mut out = Node::default();
    for field in m.fields() {
        match field? {
            (1, v) => push(&mut out.inputs, message(v, m, "node input")?.text()?, "node inputs")?,
            (2, v) => push(&mut out.outputs, message(v, m, "node output")?.text()?, "node outputs")?,
            (4, v) => out.op = message(v, m, "op_type")?.text()?,
            (5, v) => {
                let parsed = attribute(message(v, m, "attribute")?)?;
                push(&mut out.attributes, parsed, "attributes")?;
            }
            (7, v) => out.domain = message(v, m, "node domain")?.text()?,
            _ => {}
        }
    }
    Ok(out)
}

fn attribute(m: Message<'_>) -> Result<(&str, Attribute<'_>), Error> {
    let (mut name, mut kind) = ("", 0);
    let (mut float, mut int, mut text, mut ints) = (0.0, 0, &[][..], Vec::new());
    for field in m.fields() {
        match field? {
            (1, v) => name = message(v, m, "attribute name")?.text()?,
            (2, Value::Fixed32(bits)) => float = f32::from_bits(bits),
            (2, _) => return Err(malformed(m.offset, "attribute f has the wrong wire type")),
            (3, v) => int = integer(v, m, "attribute i")? as i64,
            (4, v) => text = message(v, m, "attribute s")?.bytes,
            (8, v) => integers(&mut ints, v, m, "attribute ints")?,
            (20, v) => kind = integer(v, m, "attribute type")?,
            _ => {}
        }
    }
    let value = match kind {
        1 => Attribute::Float(float),
        2 => Attribute::Int(int),
        3 => Attribute::Text(text),
        7 => Attribute::Ints(ints),
        _ => Attribute::Other,
    };
    Ok((name, value))
}

fn tensor(m: Message<'_>) -> Result<Tensor<'_>, Error> {
    let (mut name, mut kind, mut elsewhere) = ("", 0, false);
    let (mut dims, mut raw) = (Vec::new(), None);
    let (mut floats, mut ints) = (Vec::new(), Vec::new());
    for field in m.fields() {
        match field? {
            (1, v) => integers(&mut dims, v, m, "dims")?,
            (2, v) => kind = integer(v, m, "data_type")?,
            (4, Value::Fixed32(bits)) => floats.push(f32::from_bits(bits)),
            (4, v) => floats.extend(words::<4>(message(v, m, "float_data")?)?.map(f32::from_le_bytes)),
            (7, Value::Varint(v)) => ints.push(v as i64),
            (7, v) => {
                for item in message(v, m, "int64_data")?.varints() {
                    ints.push(item? as i64);
                }
            }
            (8, v) => name = message(v, m, "tensor name")?.text()?,
            (9, v) => raw = Some(message(v, m, "raw_data")?),
            (14, v) => elsewhere = integer(v, m, "data_location")? != 0,
            _ => {}
        }
    }
    let mut shape = Vec::with_capacity(dims.len());
    let mut count = 1usize;
    for d in dims {
        let Some(total) = usize::try_from(d).ok().and_then(|d| {
            shape.push(d);
            count.checked_mul(d)
        }) else {
            return Err(malformed(m.offset, format!("tensor {name:?}: dimension {d} is impossible")));
        };
        count = total;
    }
    let data = match (kind, raw) {
        _ if elsewhere => Data::Other,
        (FLOAT, Some(raw)) => Data::Floats(words::<4>(raw)?.map(f32::from_le_bytes).collect()),
        (FLOAT, None) => Data::Floats(floats),
        (INT64, Some(raw)) => Data::Ints(words::<8>(raw)?.map(i64::from_le_bytes).collect()),
        (INT64, None) => Data::Ints(ints),
        _ => Data::Other,
    };
    let got = match &data {
        Data::Floats(f) => f.len(),
        Data::Ints(i) => i.len(),
        Data::Other => count,
    };
    if got != count {
        return Err(malformed(m.offset, format!("tensor {name:?}: its shape needs {count} numbers, it has {got}")));
    }
    Ok(Tensor { name, dims: shape, data })
}

/// Little-endian words of `N` bytes.
fn words<const N: usize>(m: Message<'_>) -> Result<impl Iterator<Item = [u8; N]>, Error> {
    let (chunks, rest) = m.bytes.as_chunks::<N>();
    if rest.is_empty() {
        Ok(chunks.iter().copied())
    } else {
        Err(malformed(m.offset, format!("{} bytes are not numbers of {N} bytes", m.bytes.len())))
    }
}

fn port(m: Message<'_>) -> Result<Port<'_>, Error> {
    let mut out = Port::default();
    for field in m.fields() {
        match field? {
            (1, v) => out.name = message(v, m, "value name")?.text()?,
            (2, v) => {
                let kind = message(v, m, "value type")?;
                for field in kind.fields() {
                    if let (1, v) = field? {
                        tensor_type(message(v, kind, "tensor type")?, &mut out)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

fn tensor_type<'a>(m: Message<'a>, out: &mut Port<'a>) -> Result<(), Error> {
    for field in m.fields() {
        match field? {
            (1, v) => out.element = integer(v, m, "elem_type")?,
            (2, v) => {
                let shape = message(v, m, "shape")?;
                for field in shape.fields() {
                    if let (1, v) = field? {
                        let dim = message(v, shape, "dim")?;
                        let mut size = None;
                        for field in dim.fields() {
                            if let (1, v) = field? {
                                size = usize::try_from(integer(v, dim, "dim_value")?).ok();
                            }
                        }
                        push(&mut out.dims, size, "dimensions")?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
