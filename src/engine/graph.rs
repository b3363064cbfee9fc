//! The order of stages.

use std::collections::{BTreeMap, BTreeSet};

/// Names of `nodes` so that every one comes after its needs; ties keep the given order. Needs that are not among the nodes
/// are taken as met.
///
/// # Errors
/// The names along a cycle, first repeated at the end.
pub fn order(nodes: &[(String, Vec<String>)]) -> Result<Vec<String>, Vec<String>> {
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    let names: BTreeSet<_> = nodes.iter().map(|(name, _)| name.as_str()).collect();
    while order.len() < nodes.len() {
        let next = nodes.iter().find(|(name, needs)| {
            !done.contains(name.as_str())
                && needs.iter().all(|need| done.contains(need.as_str()) || !names.contains(need.as_str()))
        });
        match next {
            Some((name, _)) => {
                done.insert(name.as_str());
                order.push(name.clone());
            }
            None => return Err(cycle(nodes, &done)),
        }
    }
    Ok(order)
}

fn cycle(nodes: &[(String, Vec<String>)], done: &BTreeSet<&str>) -> Vec<String> {
    let open: BTreeMap<&str, &Vec<String>> = nodes
        .iter()
        .filter(|(name, _)| !done.contains(name.as_str()))
        .map(|(name, needs)| (name.as_str(), needs))
        .collect();
    let Some((mut at, _)) = open.iter().next().map(|(name, needs)| (*name, needs)) else {
        return Vec::new();
    };
    let mut path: Vec<String> = Vec::new();
    loop {
        if let Some(start) = path.iter().position(|name| name == at) {
            path.push(at.to_owned());
            return path.split_off(start);
        }
        path.push(at.to_owned());
        match open[at].iter().find_map(|need| open.get_key_value(need.as_str())) {
            Some((next, _)) => at = next,
            None => return path,
        }
    }
}

/// All that `names` need, directly or not, and `names` themselves.
pub fn closure(nodes: &[(String, Vec<String>)], names: &[String]) -> BTreeSet<String> {
    let needs: BTreeMap<_, _> = nodes.iter().map(|(name, needs)| (name.as_str(), needs)).collect();
    let mut closure = BTreeSet::new();
    let mut open = names.to_vec();
    while let Some(name) = open.pop() {
        open.extend(needs.get(name.as_str()).into_iter().flat_map(|needs| needs.iter().cloned()));
        if !closure.insert(name) {
            continue;
        }
    }
    closure
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nodes(text: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        text.iter().map(|(name, needs)| ((*name).to_owned(), needs.iter().map(|n| (*n).to_owned()).collect())).collect()
    }

    #[test]
    fn needs_come_first_and_ties_keep_their_order() {
        let graph =
            nodes(&[("inference", &["k3s", "images"]), ("images", &["k3s"]), ("system", &[]), ("k3s", &["system"])]);
        assert_eq!(order(&graph).unwrap(), ["system", "k3s", "images", "inference"]);
    }

    #[test]
    fn a_cycle_is_named() {
        let graph = nodes(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
        assert_eq!(order(&graph).unwrap_err(), ["b", "c", "b"]);
    }

    #[test]
    fn a_stage_that_is_left_out_counts_as_done() {
        assert_eq!(order(&nodes(&[("b", &["a"])])).unwrap(), ["b"]);
    }
}
