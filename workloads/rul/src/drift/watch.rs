//! The watcher: asks the peers, evaluates, tells.

use std::time::Instant;

use drift_stats::decision::{Memory, Policy};
use drift_stats::histogram::Histogram;
use jiff::Timestamp;

use super::alert::{Alertmanager, Drift};
use super::baseline::Baseline;
use super::error::Error;
use super::evaluate::{Crosscheck, Evaluation, Seen, evaluate};
use super::exposition;
use super::gauges::{self, Circumstances};
use super::memory::{Raised, Store};
use super::options::{Options, given};
use super::prometheus::Prometheus;
use super::push::Pushgateway;
use super::seed::{self, SeedReport};
use super::service::{Ring, Service, Serving};
use super::source::BaselineSource;
use crate::http;
use crate::token::Token;

/// One look and what came of telling it.
#[derive(Debug)]
pub struct Look {
    /// Absent when it could not look.
    pub evaluation: Option<Evaluation>,
    /// What failed; a look with an evaluation may still have failed to tell it.
    pub failures: Vec<String>,
    /// For the human report.
    pub notes: Vec<String>,
    pub circumstances: Circumstances,
}

/// Everything between two looks.
#[derive(Debug)]
pub struct Watcher {
    options: Options,
    policy: Policy,
    services: Vec<Service>,
    baseline: BaselineSource,
    prometheus: Option<Prometheus>,
    pushgateway: Option<Pushgateway>,
    alertmanager: Option<Alertmanager>,
    store: Store,
    looks: u64,
    failures: u64,
}

impl Watcher {
    /// # Errors
    /// Options that do not go together, a token that cannot be read.
    pub fn new(options: Options) -> Result<Self, Error> {
        let client = http::client(options.timeout).map_err(Error::Start)?;
        let token = Token::load(options.token_file.as_deref())?;
        let services: Vec<Service> = options
            .service
            .iter()
            .map(|a| a.trim())
            .filter(|a| !a.is_empty())
            .map(|address| Service::new(address, token.clone(), &client))
            .collect();
        if services.is_empty() {
            return Err(Error::Usage("no prediction service: set --service or RUL_SERVICE_URL".to_owned()));
        }
        let store = Store::open(options.state_file.as_deref().filter(|p| !p.as_os_str().is_empty()));
        Ok(Self {
            policy: options.policy(),
            services,
            baseline: BaselineSource::new(&options)?,
            prometheus: given(options.prometheus.as_ref()).map(|a| Prometheus::new(a, &client)),
            pushgateway: given(options.pushgateway.as_ref()).map(|a| Pushgateway::new(a, &client)),
            alertmanager: given(options.alertmanager.as_ref()).map(|a| Alertmanager::new(a, &client)),
            store,
            looks: 0,
            failures: 0,
            options,
        })
    }

    /// Looks, tells, remembers. Never fails as a whole: what failed is in the answer.
    pub async fn look(&mut self) -> Look {
        let started = Instant::now();
        let now = Timestamp::now();
        let now_s = u64::try_from(now.as_second()).unwrap_or(0);
        self.looks += 1;
        let mut notes = Vec::new();
        let mut failures = Vec::new();
        let memory = self.store.now.memory();
        let evaluation = match self.see(now.as_millisecond() as f64 / 1000.0, now_s, &memory, &mut notes).await {
            Ok((evaluation, next)) => {
                self.store.now.remember(&next);
                if let Err(error) = self.alert(&evaluation, now, &mut notes).await {
                    failures.push(error.to_string());
                }
                Some(evaluation)
            }
            Err(error) => {
                failures.push(error.to_string());
                None
            }
        };
        if let Some(lost) = &self.store.lost {
            notes.push(format!("the memory of earlier looks was lost: {lost}"));
        }
        if !self.store.kept() && self.options.repeat().is_none() {
            notes.push(format!(
                "no --state-file: nothing is remembered from look to look, so only a shift that is strong enough in one window becomes drift, others stay suspect (they need {} windows)",
                self.policy.windows_to_drift
            ));
        }
        if failures.is_empty() {
            self.store.now.last_success = Some(now_s);
        }
        if let Err(error) = self.store.save() {
            failures.push(error.to_string());
        }
        self.failures += u64::from(!failures.is_empty());
        let mut circumstances = Circumstances {
            up: failures.is_empty(),
            seed_compat: self.options.seed_compat,
            alert_firing: self.store.now.alert.is_some(),
            memory_kept: self.store.kept(),
            memory_lost: self.store.lost.is_some(),
            last_success: self.store.now.last_success,
            seconds: started.elapsed().as_secs_f64(),
            looks: None,
        };
        if let Some(pushgateway) = &self.pushgateway {
            let pushed = pushgateway.replace(gauges::text(evaluation.as_ref(), &circumstances)).await;
            let told = match (pushed, circumstances.up) {
                (Ok(()), true) => pushgateway.succeeded(gauges::success(now_s)).await,
                (result, _) => result,
            };
            if let Err(error) = told {
                self.failures += u64::from(failures.is_empty());
                failures.push(error.to_string());
                circumstances.up = false;
            }
        }
        circumstances.looks = self.options.repeat().map(|_| (self.looks, self.failures));
        Look { evaluation, failures, notes, circumstances }
    }

    /// Takes back what would otherwise stay at the Pushgateway for ever.
    ///
    /// # Errors
    /// When the gateway does not take it.
    pub async fn withdraw(&self) -> Result<(), Error> {
        match &self.pushgateway {
            Some(pushgateway) => pushgateway.withdraw().await,
            None => Ok(()),
        }
    }

    async fn see(
        &mut self,
        now: f64,
        now_s: u64,
        memory: &Memory,
        notes: &mut Vec<String>,
    ) -> Result<(Evaluation, Memory), Error> {
        let window_s = self.options.window.as_secs_f64();
        let oldest = now - window_s;
        let (serving, closed) = self.follow(oldest, notes).await?;
        let baseline = self.baseline.of(serving.as_ref(), notes).await?;
        let counted = self.counted(serving.as_ref()).await?;
        let ring: Vec<f64> = self
            .services
            .iter()
            .flat_map(Service::present)
            .filter(|e| serving.as_ref().is_some_and(|s| s.version == e.model_version))
            .filter_map(|e| e.rul)
            .collect();
        let crosscheck = counted.as_ref().filter(|_| closed.is_none()).map(|counted| Crosscheck::of(&ring, counted));
        let counted = match (&closed, &serving) {
            (Some(_), Some(serving)) => self.window_counts(serving, counted, oldest, now).await?,
            _ => None,
        };
        let seed = self.seed(&baseline, serving.as_ref(), oldest, now).await?;
        let mut entries: Vec<_> = self.services.iter().flat_map(Service::entries).filter(|e| e.at >= oldest).collect();
        if self.services.len() > 1 {
            entries.sort_by(|a, b| a.at.total_cmp(&b.at));
        }
        let seen = Seen {
            serving,
            entries,
            closed,
            missed: self.services.iter().map(|s| s.missed).sum(),
            counted,
            crosscheck,
            seed,
            window_s: window_s.round() as u64,
        };
        evaluate(&baseline, &seen, &self.policy, memory, now_s)
    }

    /// Reads rings until the served model is the same before and after.
    async fn follow(
        &mut self,
        oldest: f64,
        notes: &mut Vec<String>,
    ) -> Result<(Option<Serving>, Option<String>), Error> {
        let mut before = self.serving(notes).await?;
        for _ in 0..3 {
            let mut closed = None;
            for service in &mut self.services {
                if let Ring::Closed(reason) = service.follow(oldest).await? {
                    closed = Some(reason);
                }
            }
            let after = self.serving(notes).await?;
            if after == before {
                return Ok((after, closed));
            }
            before = after;
        }
        Err(Error::CouldNotLook("the served model changes faster than it can be read".to_owned()))
    }

    async fn serving(&self, notes: &mut Vec<String>) -> Result<Option<Serving>, Error> {
        let mut first: Option<Serving> = None;
        for service in &self.services {
            match (service.serving().await?, &first) {
                (Some(found), Some(known)) if found != *known => {
                    let note = format!(
                        "{} serves {} {}, others {}: only the latter is compared",
                        service.address(),
                        found.name,
                        found.version,
                        known.version
                    );
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
                (Some(found), None) => first = Some(found),
                _ => {}
            }
        }
        Ok(first)
    }

    /// What the services counted of this version since they loaded it.
    async fn counted(&self, serving: Option<&Serving>) -> Result<Option<Histogram>, Error> {
        let Some(serving) = serving else { return Ok(None) };
        let mut sum: Option<Histogram> = None;
        for service in &self.services {
            let mut samples = service.metrics("rul_prediction_bucket").await?;
            samples.retain(|s| s.labels.get("model_version") == Some(&serving.version));
            let odd = |reason: String| Error::CouldNotLook(format!("{}/metrics: {reason}", service.address()));
            let Some(found) = exposition::histogram(&samples).map_err(odd)? else { continue };
            match &mut sum {
                None => sum = Some(found),
                Some(sum) => sum.merge(&found).map_err(|e| odd(e.to_string()))?,
            }
        }
        Ok(sum)
    }

    /// The fallback: the window's counts from Prometheus, else everything since the version was loaded.
    async fn window_counts(
        &self,
        serving: &Serving,
        counted: Option<Histogram>,
        oldest: f64,
        now: f64,
    ) -> Result<Option<(Histogram, &'static str)>, Error> {
        if let Some(prometheus) = &self.prometheus {
            return Ok(prometheus.counts(&serving.version, oldest, now).await?.map(|h| (h, "histogram in Prometheus")));
        }
        Ok(counted.map(|h| (h, "histogram of the service, since the model was loaded")))
    }

    async fn seed(
        &self,
        baseline: &Baseline,
        serving: Option<&Serving>,
        oldest: f64,
        now: f64,
    ) -> Result<Option<SeedReport>, Error> {
        let seed_baseline = &baseline.seed;
        let limits = self.options.limits();
        if let Some(prometheus) = self.prometheus.as_ref().filter(|_| self.options.seed_compat) {
            let counts = prometheus.increase(now - oldest, now).await?;
            return Ok(Some(seed::check(seed_baseline, &counts, limits, "Prometheus")?));
        }
        // Without Prometheus: what it would have scraped, all versions together, as it was.
        let values: Vec<f64> =
            self.services.iter().flat_map(Service::entries).filter(|e| e.at >= oldest).filter_map(|e| e.rul).collect();
        if serving.is_none() {
            return Ok(None);
        }
        let counts = seed::cumulative(&values, &seed_baseline.edges);
        Ok(Some(seed::check(seed_baseline, &counts, limits, "the ring")?))
    }

    /// Raises, renews or resolves.
    async fn alert(&mut self, e: &Evaluation, now: Timestamp, notes: &mut Vec<String>) -> Result<(), Error> {
        let version = e.model.serving_version.clone().unwrap_or_default();
        let before = self.store.now.alert.clone();
        let drift = if self.options.seed_compat {
            e.seed.as_ref().filter(|s| s.drift).map(|_| "seed_rule")
        } else {
            // Within the cool-down a new drift is shown but not sent; one that was sent is renewed.
            let sent = before.as_ref().is_some_and(|b| b.baseline_version == version);
            e.cause.filter(|_| e.state == "drift" && (e.page || sent))
        };
        let kept = self.store.kept() || self.options.repeat().is_some();
        let settle = match e.state {
            // Nobody knows whether the drift goes on. An alert about a model that is gone does not.
            "stub" => false,
            "baseline_mismatch" => before.as_ref().is_none_or(|b| b.baseline_version != version),
            // Silence is no all-clear for who remembers nothing.
            "insufficient_data" | "suspect" => kept || drift.is_some(),
            _ => true,
        };
        if !settle && !self.options.seed_compat {
            return Ok(());
        }
        let wanted = drift.map(|cause| {
            let starts_at = before
                .as_ref()
                .filter(|b| b.baseline_version == version && b.cause == cause)
                .map_or_else(|| now.to_string(), |b| b.starts_at.clone());
            Raised { baseline_version: version, cause: cause.to_owned(), starts_at }
        });
        // Remembered before it is sent: if Alertmanager is away now, the next look sends it.
        self.store.now.alert.clone_from(&wanted);
        let Some(alertmanager) = &self.alertmanager else { return Ok(()) };
        let alert = wanted.as_ref().map(|raised| self.drift(e, raised));
        let wanted = alert.as_ref().zip(wanted.as_ref()).map(|(drift, raised)| (drift, raised.starts_at.as_str()));
        let whose = (self.options.service_name.as_str(), self.options.model_name.as_str());
        let resolved = alertmanager.settle(whose, wanted, self.options.ttl()).await?;
        if resolved > 0 {
            notes.push(format!("{resolved} alert(s) resolved"));
        }
        if let Some(raised) = &self.store.now.alert {
            notes.push(format!(
                "alert firing since {}, renewed for {} s",
                raised.starts_at,
                self.options.ttl().as_secs()
            ));
        }
        Ok(())
    }

    fn drift(&self, e: &Evaluation, raised: &Raised) -> Drift {
        let seed = e.seed.as_ref().filter(|_| self.options.seed_compat);
        let description = seed.map_or_else(
            || format!("{} {}", e.sentence, e.notes.join("; ")),
            |s| {
                format!(
                    "PSI {:.3} (threshold {}), KS p {:.3} (threshold {})",
                    s.psi, s.psi_threshold, s.ks_pvalue, s.ks_pvalue_threshold
                )
            },
        );
        Drift {
            service: self.options.service_name.clone(),
            model_name: self.options.model_name.clone(),
            baseline_version: raised.baseline_version.clone(),
            cause: raised.cause.clone(),
            summary: format!(
                "Model drift ({}): {} version {}",
                raised.cause, self.options.model_name, raised.baseline_version
            ),
            description,
        }
    }
}
