//! The CSV of `rul simulate --samples`, read back.

use std::collections::HashMap;

pub use crate::simulate::Sample;

/// By the names in its first line; lines that are cut off are left out.
pub fn read(csv: &str) -> Vec<Sample> {
    let mut lines = csv.lines();
    let names: HashMap<&str, usize> =
        lines.next().unwrap_or_default().split(',').enumerate().map(|(k, n)| (n, k)).collect();
    lines.filter_map(|line| sample(&names, &line.split(',').collect::<Vec<_>>())).collect()
}

fn sample(names: &HashMap<&str, usize>, fields: &[&str]) -> Option<Sample> {
    let field = |name: &str| names.get(name).and_then(|&k| fields.get(k)).copied();
    Some(Sample {
        at: field("at")?.parse().ok()?,
        engine: field("engine")?.to_owned(),
        cycle: field("cycle")?.parse().ok()?,
        truth: field("truth")?.parse().ok()?,
        rul: field("rul")?.parse().ok()?,
        drifted: field("drifted")?.parse().ok()?,
        model_version: field("model_version")?.to_owned(),
        latency_ms: field("latency_ms")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn columns_are_found_by_name() {
        let csv = "engine,at,cycle,truth,rul,drifted,model_version,latency_ms,more\ne-1,0.5,30,100,90.5,true,2,1.25,x\ncut,off";
        let read = read(csv);
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].at, read[0].rul, read[0].drifted, read[0].latency_ms), (0.5, 90.5, true, 1.25));
    }
}
