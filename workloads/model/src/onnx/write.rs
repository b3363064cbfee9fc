use super::Labels;
use super::graph::{FLOAT, INT64};
use super::wire::Writer;
use crate::{Error, Network};

pub(super) const OPSET: i64 = 17;
const IR: i64 = 8;
const TYPE_INT: i64 = 2;
const TYPE_INTS: i64 = 7;

/// The network as the bytes of one ONNX file.
///
/// # Errors
/// [`Error::Invalid`] when the network does not fit together or the names are not one per feature.
pub fn write(network: &Network, labels: &Labels) -> Result<Vec<u8>, Error> {
    network.check()?;
    let features = network.features();
    if !labels.features.is_empty() && labels.features.len() != features {
        return Err(Error::invalid("labels", format!("{} names for {features} features", labels.features.len())));
    }
    let names = serde_json::to_string(&labels.features).map_err(|e| Error::invalid("labels", e.to_string()))?;
    let mut model = Writer::default()
        .int(1, IR)
        .text(2, "rul")
        .text(3, env!("CARGO_PKG_VERSION"))
        .message(7, graph(network))
        .message(8, Writer::default().text(1, "").int(2, OPSET));
    for (key, value) in [("rul.name", labels.name.as_str()), ("rul.version", &labels.version), ("rul.features", &names)]
    {
        model = model.message(14, Writer::default().text(1, key).text(2, value));
    }
    Ok(model.finish())
}

fn graph(network: &Network) -> Writer {
    let features = network.features();
    let one = |x: f32| vec![x];
    let regimes = network.scaler.regimes.as_ref();
    let mut g = Writer::default();
    if regimes.is_some() {
        // The nearest centre's row of both tables.
        g = g
            .message(1, node("Gather", &["input", "column"], &["teller"]).message(5, int("axis", 2)))
            .message(1, node("Sub", &["teller", "centres"], &["apart"]))
            .message(1, node("Abs", &["apart"], &["distance"]))
            .message(
                1,
                node("ArgMin", &["distance"], &["regime"]).message(5, int("axis", 2)).message(5, int("keepdims", 0)),
            )
            .message(1, node("Gather", &["regime_mean", "regime"], &["own_mean"]).message(5, int("axis", 0)))
            .message(1, node("Gather", &["regime_scale", "regime"], &["own_scale"]).message(5, int("axis", 0)))
            .message(1, node("Sub", &["input", "own_mean"], &["own_centred"]))
            .message(1, node("Div", &["own_centred", "own_scale"], &["normal"]));
    }
    let first = if regimes.is_some() { "normal" } else { "input" };
    g = g
        .message(1, node("Sub", &[first, "mean"], &["centred"]))
        .message(1, node("Div", &["centred", "scale"], &["scaled"]))
        .message(1, node("Transpose", &["scaled"], &["steps0"]).message(5, ints("perm", &[1, 0, 2])));
    for (i, layer) in network.layers.iter().enumerate() {
        let name = |what: &str| format!("{what}{i}");
        let inputs = [name("steps"), name("w"), name("r"), name("b")];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        // The last layer hands over its final state, the others every step.
        let last = i + 1 == network.layers.len();
        let (y, next) = (name("y"), format!("steps{}", i + 1));
        let (outputs, axis, squeezed) = if last {
            (["", y.as_str()].to_vec(), "axis0", "state")
        } else {
            ([y.as_str()].to_vec(), "axis1", next.as_str())
        };
        let hidden = int("hidden_size", layer.hidden as i64);
        g = g
            .message(1, node("LSTM", &inputs, &outputs).message(5, hidden))
            .message(1, node("Squeeze", &[&y, axis], &[squeezed]));
    }
    g = g
        .message(1, node("Gemm", &["state", "head", "bias"], &["linear"]).message(5, int("transB", 1)))
        .message(1, node("Clip", &["linear", "zero", "cap"], &["output"]))
        .text(2, "rul")
        .message(5, floats("mean", &[features], &network.scaler.mean))
        .message(5, floats("scale", &[features], &network.scaler.scale))
        .message(5, axis("axis0", 0));
    if let Some(r) = regimes {
        let count = r.centres.len();
        g = g
            .message(5, axis("column", r.column as i64))
            .message(5, floats("centres", &[count], &r.centres))
            .message(5, floats("regime_mean", &[count, features], &r.mean))
            .message(5, floats("regime_scale", &[count, features], &r.scale));
    }
    if network.layers.len() > 1 {
        g = g.message(5, axis("axis1", 1));
    }
    for (i, l) in network.layers.iter().enumerate() {
        let gates = 4 * l.hidden;
        // ONNX wants an input and a recurrent bias; one of them is enough.
        let mut b = l.b.clone();
        b.resize(2 * gates, 0.0);
        g = g
            .message(5, floats(&format!("w{i}"), &[1, gates, l.input], &l.w))
            .message(5, floats(&format!("r{i}"), &[1, gates, l.hidden], &l.r))
            .message(5, floats(&format!("b{i}"), &[1, 2 * gates], &b));
    }
    g.message(5, floats("head", &[1, network.head.len()], &network.head))
        .message(5, floats("bias", &[1], &one(network.bias)))
        .message(5, floats("zero", &[], &one(0.0)))
        .message(5, floats("cap", &[], &one(network.cap)))
        .message(11, port("input", &[network.window, features]))
        .message(12, port("output", &[1]))
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Writer {
    let mut n = Writer::default();
    for name in inputs {
        n = n.text(1, name);
    }
    for name in outputs {
        n = n.text(2, name);
    }
    n.text(4, op)
}

fn int(name: &str, value: i64) -> Writer {
    Writer::default().text(1, name).int(3, value).int(20, TYPE_INT)
}

fn ints(name: &str, values: &[i64]) -> Writer {
    let attribute = values.iter().fold(Writer::default().text(1, name), |a, v| a.int(8, *v));
    attribute.int(20, TYPE_INTS)
}

fn tensor(name: &str, dims: &[usize], kind: u64, raw: &[u8]) -> Writer {
    dims.iter().fold(Writer::default(), |t, d| t.int(1, *d as i64)).int(2, kind as i64).text(8, name).bytes(9, raw)
}

fn floats(name: &str, dims: &[usize], values: &[f32]) -> Writer {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, dims, FLOAT, &raw)
}

fn axis(name: &str, value: i64) -> Writer {
    tensor(name, &[1], INT64, &value.to_le_bytes())
}

/// A float tensor with a free batch dimension in front.
fn port(name: &str, dims: &[usize]) -> Writer {
    let batch = Writer::default().text(2, "batch");
    let shape =
        dims.iter().fold(Writer::default().message(1, batch), |s, d| s.message(1, Writer::default().int(1, *d as i64)));
    let kind = Writer::default().int(1, FLOAT as i64).message(2, shape);
    Writer::default().text(1, name).message(2, Writer::default().message(1, kind))
}
