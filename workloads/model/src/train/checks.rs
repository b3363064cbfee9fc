use super::{Options, Schedule, Windows};
use crate::network::{MAX_LAYERS, MAX_WIDTH};
use crate::{Error, Network, Scaler};

impl Windows<'_> {
    /// Numbers in one window.
    pub(super) fn size(&self) -> usize {
        self.window * self.features
    }

    fn check(&self) -> Result<(), Error> {
        let expected = self.targets.len().saturating_mul(self.size());
        if self.size() == 0 || self.inputs.len() != expected {
            return Err(Error::Shape { what: "training windows", expected, got: self.inputs.len() });
        }
        let finite = |xs: &[f32]| xs.iter().position(|x| !x.is_finite());
        if let Some(at) = finite(self.inputs) {
            let window = at / self.size();
            return Err(Error::invalid("training windows", format!("window {window} has a number that is not finite")));
        }
        if let Some(at) = finite(self.targets) {
            return Err(Error::invalid("training targets", format!("target {at} is not a finite number")));
        }
        Ok(())
    }
}

impl Options {
    fn check(&self) -> Result<(), Error> {
        let bad = |reason: String| Err(Error::invalid("training options", reason));
        if self.hidden.is_empty() || self.hidden.len() > MAX_LAYERS {
            return bad(format!("{} layers, allowed 1 to {MAX_LAYERS}", self.hidden.len()));
        }
        if let Some(h) = self.hidden.iter().find(|h| **h == 0 || **h > MAX_WIDTH) {
            return bad(format!("{h} units, allowed 1 to {MAX_WIDTH}"));
        }
        for (name, value) in
            [("epochs", self.epochs), ("batch", self.batch), ("threads", self.threads), ("patience", self.patience)]
        {
            if value == 0 {
                return bad(format!("{name} is 0, needs at least 1"));
            }
        }
        let floor = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Cosine { floor } => floor,
        };
        let positive = f32::MIN_POSITIVE..=f32::MAX;
        for (name, value, allowed) in [
            ("cap", self.cap, positive.clone()),
            ("learning_rate", self.learning_rate, positive.clone()),
            ("clip_norm", self.clip_norm, positive),
            ("dropout", self.dropout, 0.0..=0.9),
            ("input_noise", self.input_noise, 0.0..=f32::MAX),
            ("input_offset", self.input_offset, 0.0..=f32::MAX),
            ("weight_decay", self.weight_decay, 0.0..=f32::MAX),
            ("average", self.average, 0.0..=0.999_999),
            ("the schedule's floor", floor, 0.0..=1.0),
            ("min_improvement", self.min_improvement, 0.0..=f32::MAX),
        ] {
            if !allowed.contains(&value) {
                let (low, high) = (allowed.start(), allowed.end());
                return bad(format!("{name} is {value}, allowed {low} to {high}"));
            }
        }
        Ok(())
    }
}

/// Everything that would otherwise fail, or silently mislead, in the middle of a run.
pub(super) fn check(
    data: &Windows<'_>,
    train: &[usize],
    validate: &[usize],
    scaler: &Scaler,
    options: &Options,
    from: Option<&Network>,
) -> Result<(), Error> {
    options.check()?;
    data.check()?;
    for (what, indices) in [("training", train), ("validation", validate)] {
        if indices.is_empty() {
            return Err(Error::invalid("split", format!("no {what} windows")));
        }
        if let Some(i) = indices.iter().find(|i| **i >= data.targets.len()) {
            return Err(Error::invalid("split", format!("{what} window {i} of {}", data.targets.len())));
        }
    }
    let mut seen = vec![false; data.targets.len()];
    train.iter().for_each(|i| seen[*i] = true);
    if let Some(i) = validate.iter().find(|i| seen[**i]) {
        return Err(Error::invalid("split", format!("window {i} is in training and in validation")));
    }
    scaler.check(data.features)?;
    let Some(from) = from else { return Ok(()) };
    from.check()?;
    let hidden: Vec<usize> = from.layers.iter().map(|l| l.hidden).collect();
    if hidden != options.hidden || from.window != data.window || from.features() != data.features {
        return Err(Error::invalid(
            "warm start",
            format!(
                "the model has window {}, {} features and layers {hidden:?}; the run has {}, {} and {:?}",
                from.window,
                from.features(),
                data.window,
                data.features,
                options.hidden
            ),
        ));
    }
    Ok(())
}
