//! From numbers to a decision, with its reason in words.

use super::Options;
use super::compare::Comparison;

/// Fewer engines say nothing about the others.
pub const MIN_ENGINES: usize = 10;

/// What must hold.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub min_improvement: f64,
    pub max_nasa_increase: f64,
    pub confidence: f64,
}

/// What happens to the challenger, and why.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    FirstModel,
    Better { improvement: f64, low: f64 },
    Forced,
    AlreadyServed,
    FewEngines { engines: usize },
    NotBetter { improvement: f64 },
    NotSure { improvement: f64, low: f64, confidence: f64 },
    LaterWarnings { dataset: String, champion: f64, challenger: f64 },
}

/// Numbers that are not finite never promote.
pub fn decide(numbers: &Comparison, rules: Rules) -> Decision {
    let (improvement, low) = (numbers.improvement, numbers.improvement_low);
    if numbers.engines < MIN_ENGINES {
        return Decision::FewEngines { engines: numbers.engines };
    }
    if improvement.partial_cmp(&rules.min_improvement).is_none_or(std::cmp::Ordering::is_lt) {
        return Decision::NotBetter { improvement };
    }
    if !low.gt(&0.0) {
        return Decision::NotSure { improvement, low, confidence: rules.confidence };
    }
    for set in &numbers.datasets {
        if !set.challenger_nasa.le(&(set.champion_nasa * (1.0 + rules.max_nasa_increase))) {
            return Decision::LaterWarnings {
                dataset: set.name.clone(),
                champion: set.champion_nasa,
                challenger: set.challenger_nasa,
            };
        }
    }
    Decision::Better { improvement, low }
}

impl Decision {
    pub fn promotes(&self) -> bool {
        matches!(self, Self::FirstModel | Self::Better { .. } | Self::Forced)
    }

    pub fn word(&self) -> &'static str {
        match self {
            Self::FirstModel => "first_model",
            Self::Better { .. } => "better",
            Self::Forced => "forced",
            Self::AlreadyServed => "already_served",
            Self::FewEngines { .. } => "too_few_engines",
            Self::NotBetter { .. } => "not_better",
            Self::NotSure { .. } => "not_certain",
            Self::LaterWarnings { .. } => "nasa_score",
        }
    }

    pub fn reason(&self, options: &Options) -> String {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        match self {
            Self::FirstModel => format!("no version has the alias {:?} yet", options.alias),
            Self::Better { improvement, low } => format!(
                "{} less error (at least {} with {} confidence), {} asked for",
                percent(*improvement),
                percent(*low),
                percent(options.confidence),
                percent(options.min_improvement)
            ),
            Self::Forced => "forced".to_owned(),
            Self::AlreadyServed => format!("it has the alias {:?} already", options.alias),
            Self::FewEngines { engines } => {
                format!("{engines} held-out engines, at least {MIN_ENGINES} are needed to tell luck from progress")
            }
            Self::NotBetter { improvement } if *improvement < 0.0 => {
                format!("{} more error, {} less asked for", percent(-improvement), percent(options.min_improvement))
            }
            Self::NotBetter { improvement } => {
                format!("{} less error, {} asked for", percent(*improvement), percent(options.min_improvement))
            }
            Self::NotSure { improvement, low, confidence } => format!(
                "{} less error, but with other engines it may as well be {} (bound at {} confidence)",
                percent(*improvement),
                percent(*low),
                percent(*confidence)
            ),
            Self::LaterWarnings { dataset, champion, challenger } => format!(
                "NASA's score on {dataset} rises from {champion:.0} to {challenger:.0}, more than {} allowed: it warns too late too often",
                percent(options.max_nasa_increase)
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Decision, Rules, decide};
    use crate::promote::compare::{Comparison, SetComparison};

    const RULES: Rules = Rules { min_improvement: 0.05, max_nasa_increase: 0.1, confidence: 0.95 };

    fn numbers(improvement: f64, improvement_low: f64, nasa: [f64; 2]) -> Comparison {
        let [champion_nasa, challenger_nasa] = nasa;
        Comparison {
            engines: 100,
            windows: 1000,
            improvement,
            improvement_low,
            confidence: 0.95,
            engines_better: 60,
            champion_nasa,
            challenger_nasa,
            datasets: vec![SetComparison {
                name: "FD001".into(),
                engines: 100,
                champion_rmse: 1.0,
                challenger_rmse: 1.0 - improvement,
                champion_nasa,
                challenger_nasa,
            }],
        }
    }

    #[test]
    fn each_rule_alone_keeps_the_champion() {
        for (case, word) in [
            (numbers(0.05, 0.001, [100.0, 110.0]), "better"),
            (numbers(0.0499, 0.04, [100.0, 50.0]), "not_better"),
            (numbers(-0.5, -0.6, [100.0, 50.0]), "not_better"),
            (numbers(0.2, 0.0, [100.0, 50.0]), "not_certain"),
            (numbers(0.2, 0.1, [100.0, 110.1]), "nasa_score"),
            (numbers(f64::NAN, 0.1, [100.0, 50.0]), "not_better"),
            (numbers(0.2, f64::NAN, [100.0, 50.0]), "not_certain"),
            (numbers(0.2, 0.1, [100.0, f64::NAN]), "nasa_score"),
            (Comparison { engines: 9, ..numbers(0.2, 0.1, [100.0, 50.0]) }, "too_few_engines"),
        ] {
            let decision = decide(&case, RULES);
            assert_eq!(decision.word(), word, "{case:?}");
            assert_eq!(decision.promotes(), word == "better");
        }
        assert_eq!(decide(&numbers(0.2, 0.1, [100.0, 50.0]), RULES), Decision::Better { improvement: 0.2, low: 0.1 });
    }

    #[test]
    fn a_set_that_gets_worse_is_not_hidden_by_one_that_gets_better() {
        let mut both = numbers(0.3, 0.2, [1000.0, 500.0]);
        let mut worse = both.datasets[0].clone();
        (worse.name, worse.champion_nasa, worse.challenger_nasa) = ("FD002".into(), 100.0, 200.0);
        both.datasets.push(worse);
        assert!(matches!(decide(&both, RULES), Decision::LaterWarnings { dataset, .. } if dataset == "FD002"));
    }
}
