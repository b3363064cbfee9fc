use super::graph::{Attribute, Data, FLOAT, Graph, Node, Tensor};
use super::{Labels, Parsed};
use crate::{Error, Lstm, Network, Regimes, Scaler};

/// Squeeze takes its axes as an input from here on.
const OLDEST_OPSET: u64 = 13;

/// Reads bytes that [`super::write`] made (or anything with exactly that graph, whatever the names).
///
/// # Errors
/// [`Error::Malformed`] with an offset when the bytes are not ONNX, [`Error::Foreign`] when they are
/// another graph, [`Error::Invalid`] when they are our graph with impossible numbers. Never panics;
/// allocates no more than a small multiple of the file's length.
pub fn read(bytes: &[u8]) -> Result<Parsed, Error> {
    let graph = Graph::parse(bytes)?;
    let network = Walk::start(&graph)?.network()?;
    network.check()?;
    Ok(Parsed { network, labels: labels(&graph)? })
}

fn foreign<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Foreign { reason: reason.into() })
}

fn labels(graph: &Graph<'_>) -> Result<Labels, Error> {
    let mut out = Labels::default();
    for (key, value) in &graph.metadata {
        match *key {
            "rul.name" => out.name = (*value).into(),
            "rul.version" => out.version = (*value).into(),
            "rul.features" => {
                out.features =
                    serde_json::from_str(value).map_err(|e| Error::invalid("metadata rul.features", e.to_string()))?;
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Follows the one path through the graph.
struct Walk<'g, 'a> {
    graph: &'g Graph<'a>,
    next: usize,
    /// Name of the value that the next node must take.
    value: &'a str,
    window: usize,
    features: usize,
}

impl<'g, 'a> Walk<'g, 'a> {
    fn start(graph: &'g Graph<'a>) -> Result<Self, Error> {
        if graph.opset < OLDEST_OPSET {
            return foreign(format!("opset {}, needs {OLDEST_OPSET} or later", graph.opset));
        }
        let [input] = graph.inputs.as_slice() else {
            return foreign(format!("{} inputs", graph.inputs.len()));
        };
        let [_, Some(window), Some(features)] = input.dims[..] else {
            return foreign(format!("input {:?} is not [batch, window, features]", input.name));
        };
        if input.element != FLOAT {
            return foreign("its input is not float32");
        }
        Ok(Self { graph, next: 0, value: input.name, window, features })
    }

    /// The eight nodes that normalise within regimes, where the file begins with them.
    fn regimes(&mut self) -> Result<Option<Regimes>, Error> {
        if self.graph.nodes.first().is_none_or(|n| n.op != "Gather") {
            return Ok(None);
        }
        let input = self.value;
        let teller = self.node("Gather", 2)?;
        self.only(teller, &[("axis", 2)])?;
        let column = match self.tensor(teller.inputs[1])? {
            Tensor { data: Data::Ints(column), dims, .. } if dims == &[1] => column[0],
            _ => return foreign("regimes are told apart by more than one column"),
        };
        let apart = self.node("Sub", 2)?;
        let centres = self.tensor(apart.inputs[1])?;
        let [count] = centres.dims[..] else {
            return foreign("the centres of the regimes are not a list");
        };
        let centres = self.floats(apart.inputs[1], &[count])?.to_vec();
        self.node("Abs", 1)?;
        let argmin = self.node("ArgMin", 1)?;
        self.only(argmin, &[("axis", 2), ("keepdims", 0)])?;
        let regime = self.value;
        let mut table = || -> Result<(&'a str, Vec<f32>), Error> {
            // Both tables are looked up by the regime: the path forks here.
            self.value = self.graph.nodes.get(self.next).and_then(|n| n.inputs.first()).copied().unwrap_or_default();
            let gather = self.node("Gather", 2)?;
            self.only(gather, &[("axis", 0)])?;
            if gather.inputs[1] != regime {
                return foreign("a table is not looked up by the regime");
            }
            Ok((self.value, self.floats(gather.inputs[0], &[count, self.features])?.to_vec()))
        };
        let ((own_mean, mean), (own_scale, scale)) = (table()?, table()?);
        self.value = input;
        let (sub, div) = (self.node("Sub", 2)?, self.node("Div", 2)?);
        if sub.inputs[1] != own_mean || div.inputs[1] != own_scale {
            return foreign("rows are not normalised by their own regime");
        }
        let Ok(column) = usize::try_from(column) else {
            return foreign(format!("regimes are told apart by column {column}"));
        };
        Ok(Some(Regimes { column, centres, mean, scale }))
    }

    /// Integer attributes, exactly these.
    fn only(&self, node: &Node<'_>, wanted: &[(&str, i64)]) -> Result<(), Error> {
        let has = |(name, value): &(&str, i64)| node.attributes.contains(&(*name, Attribute::Int(*value)));
        if node.attributes.len() == wanted.len() && wanted.iter().all(has) {
            return Ok(());
        }
        foreign(format!("{} has other attributes", node.op))
    }

    fn network(mut self) -> Result<Network, Error> {
        let regimes = self.regimes()?;
        let sub = self.node("Sub", 2)?;
        let mean = self.floats(sub.inputs[1], &[self.features])?.to_vec();
        let div = self.node("Div", 2)?;
        let scale = self.floats(div.inputs[1], &[self.features])?.to_vec();
        let transpose = self.node("Transpose", 1)?;
        if transpose.attributes != [("perm", Attribute::Ints(vec![1, 0, 2]))] {
            return foreign("Transpose does not put the steps first");
        }
        let mut layers = Vec::new();
        let mut width = self.features;
        loop {
            let (layer, last) = self.lstm(width)?;
            width = layer.hidden;
            layers.push(layer);
            if last {
                break;
            }
        }
        let gemm = self.node("Gemm", 3)?;
        for (name, value) in &gemm.attributes {
            let ours = match (*name, value) {
                ("transB", Attribute::Int(1)) | ("transA", Attribute::Int(0)) => true,
                ("alpha" | "beta", Attribute::Float(f)) => *f == 1.0,
                _ => false,
            };
            if !ours {
                return foreign(format!("Gemm has {name} = {value:?}"));
            }
        }
        if !gemm.attributes.iter().any(|(name, _)| *name == "transB") {
            return foreign("Gemm does not transpose its weights");
        }
        let head = self.floats(gemm.inputs[1], &[1, width])?.to_vec();
        let bias = self.floats(gemm.inputs[2], &[1])?[0];
        let clip = self.node("Clip", 3)?;
        if self.floats(clip.inputs[1], &[])? != [0.0] {
            return foreign("Clip does not start at zero");
        }
        let cap = self.floats(clip.inputs[2], &[])?[0];
        if self.next != self.graph.nodes.len() {
            return foreign("nodes follow the Clip");
        }
        match self.graph.outputs.as_slice() {
            [output] if output.name == self.value => {}
            _ => return foreign("the Clip is not its one output"),
        }
        Ok(Network { window: self.window, scaler: Scaler { mean, scale, regimes }, layers, head, bias, cap })
    }

    /// The next node, which must be an `op` of the current value with `inputs` inputs.
    fn node(&mut self, op: &str, inputs: usize) -> Result<&'g Node<'a>, Error> {
        let at = self.next;
        let Some(node) = self.graph.nodes.get(at) else {
            return foreign(format!("it ends after {at} nodes, {op} is missing"));
        };
        if node.op != op || !(node.domain.is_empty() || node.domain == "ai.onnx") {
            return foreign(format!("node {at} is {}, not {op}", node.op));
        }
        if node.inputs.len() != inputs || node.inputs[0] != self.value {
            return foreign(format!("node {at} ({op}) has other inputs"));
        }
        // An LSTM that keeps only its last state leaves its first output unnamed.
        match node.outputs.as_slice() {
            [name] | ["", name] if !name.is_empty() => self.value = name,
            _ => return foreign(format!("node {at} ({op}) has other outputs")),
        }
        self.next += 1;
        Ok(node)
    }

    /// An LSTM and its Squeeze; says whether it is the last layer.
    fn lstm(&mut self, input: usize) -> Result<(Lstm, bool), Error> {
        let at = self.next;
        let node = self.node("LSTM", 4)?;
        let mut hidden = None;
        for (name, value) in &node.attributes {
            match (*name, value) {
                ("hidden_size", Attribute::Int(h)) => hidden = usize::try_from(*h).ok(),
                ("direction", Attribute::Text(b"forward")) => {}
                ("input_forget" | "layout", Attribute::Int(0)) => {}
                _ => return foreign(format!("node {at} (LSTM) has {name} = {value:?}")),
            }
        }
        let Some(gates) = hidden.and_then(|h| h.checked_mul(4)).filter(|g| *g > 0) else {
            return foreign(format!("node {at} (LSTM) has no hidden_size"));
        };
        let hidden = gates / 4;
        let w = self.floats(node.inputs[1], &[1, gates, input])?.to_vec();
        let r = self.floats(node.inputs[2], &[1, gates, hidden])?.to_vec();
        // The tensor exists with `gates * hidden` numbers, so doubling cannot overflow.
        let both = self.floats(node.inputs[3], &[1, 2 * gates])?;
        let (wb, rb) = both.split_at(gates);
        let b = wb.iter().zip(rb).map(|(x, y)| x + y).collect();
        let last = node.outputs.len() == 2;
        let squeeze = self.node("Squeeze", 2)?;
        let axis = match self.tensor(squeeze.inputs[1])?.data {
            Data::Ints(ref axes) if axes.len() == 1 => axes[0],
            _ => return foreign("a Squeeze has other axes"),
        };
        if axis != i64::from(!last) {
            return foreign(format!("a Squeeze removes axis {axis}"));
        }
        Ok((Lstm { input, hidden, w, r, b }, last))
    }

    fn tensor(&self, name: &str) -> Result<&'g Tensor<'a>, Error> {
        match self.graph.tensors.iter().find(|t| t.name == name) {
            Some(tensor) => Ok(tensor),
            None => foreign(format!("{name:?} is not a stored tensor")),
        }
    }

    fn floats(&self, name: &str, dims: &[usize]) -> Result<&'g [f32], Error> {
        let tensor = self.tensor(name)?;
        match &tensor.data {
            Data::Floats(values) if tensor.dims == dims => Ok(values),
            _ => foreign(format!("tensor {name:?} is not float32 of shape {dims:?}")),
        }
    }
}
