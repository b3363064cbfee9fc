//! `provision tunnel`: Services of the cluster at ports of this machine, through the one connection to the host.
//!
//! Forwarded to the Service's cluster address, so a pod that is replaced is not noticed. A lost connection is opened again.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Exit, Invalid, host_run, load};
use crate::agent::protocol::{Job, Service, Task};
use crate::cli::Global;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::engine::{Cancel, Program};
use crate::project::HostSpec;
use crate::transport::{self, Keep, session};
use crate::ui::{Ui, table};

/// Seconds between attempts to reach the host again, at most.
const LONGEST_PAUSE: u64 = 10;

pub async fn tunnel(global: &Global, targets: &[String], host: Option<&str>, ui: &Ui) -> Result<Exit> {
    let project = load::load(global)?;
    let chosen: Vec<String> = host.into_iter().map(str::to_owned).collect();
    let hosts = load::hosts(&project, &chosen)?;
    let [(name, spec)] = hosts.as_slice() else {
        let names: Vec<_> = hosts.iter().map(|(name, _)| name.as_str()).collect();
        let fault = Diagnostic::new("a tunnel leads to one host, and the inventory has several");
        return Err(Invalid::from(fault.hint(format!("choose with --host: {}", names.join(", ")))).into());
    };
    let targets = targets.iter().map(|text| text.parse()).collect::<Result<Vec<Target>, _>>().map_err(Invalid::from)?;
    if targets.is_empty() {
        let (services, keep) = look(name, spec, ui).await?;
        keep.close().await;
        list(&services, ui);
        return Ok(Exit::Ok);
    }
    tokio::select! {
        result = hold(name, spec, &targets, ui) => result.map(|()| Exit::Ok),
        () = ended() => Ok(Exit::Ok),
    }
}

/// SIGINT or SIGTERM: the ordinary end of a tunnel.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// What the user asked for: `[LOCAL=][NAMESPACE/]SERVICE[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    local: Option<u16>,
    namespace: Option<String>,
    service: String,
    port: Option<String>,
}

impl FromStr for Target {
    type Err = Diagnostic;

    fn from_str(text: &str) -> Result<Self, Diagnostic> {
        let wrong = |why: &str| {
            Diagnostic::new(format!("{text:?}: {why}"))
                .hint("write [LOCAL=][NAMESPACE/]SERVICE[:PORT], such as mlflow, mlops/minio:9001 or 15000=mlflow")
        };
        let (local, rest) = match text.split_once('=') {
            None => (None, text),
            Some((local, rest)) => {
                let number: Option<u16> = local.parse().ok().filter(|port| *port > 0);
                (Some(number.ok_or_else(|| wrong(&format!("{local:?} is no port")))?), rest)
            }
        };
        let (name, port) = rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port)));
        let (namespace, service) = name.split_once('/').map_or((None, name), |(space, name)| (Some(space), name));
        if service.is_empty() || service.contains('/') || namespace.is_some_and(str::is_empty) {
            return Err(wrong("no name of a Service"));
        }
        if port.is_some_and(str::is_empty) {
            return Err(wrong("no port after the colon"));
        }
        let (namespace, port) = (namespace.map(str::to_owned), port.map(str::to_owned));
        Ok(Self { local, namespace, service: service.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.service)?;
        self.port.as_ref().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Target {
    /// The Service's address.
    fn find(&self, services: &[Service]) -> Result<SocketAddr, Diagnostic> {
        let fits = |service: &&Service| {
            service.name == self.service && self.namespace.as_ref().is_none_or(|space| *space == service.namespace)
        };
        let found: Vec<_> = services.iter().filter(fits).collect();
        let service = match found.as_slice() {
            [one] => one,
            [] => {
                let fault = Diagnostic::new(format!("the cluster has no Service {self} with an address"));
                let names = services.iter().map(|service| service.name.as_str());
                let hint = did_you_mean(&self.service, names);
                return Err(fault.hint(hint.unwrap_or_else(|| "`provision tunnel` alone lists them".into())));
            }
            many => {
                let names: Vec<_> = many.iter().map(|it| format!("{}/{}", it.namespace, it.name)).collect();
                let fault = Diagnostic::new(format!("{} Services are called {}", many.len(), self.service));
                return Err(fault.hint(format!("choose one of {}", names.join(", "))));
            }
        };
        let port = match (&self.port, service.ports.as_slice()) {
            (None, [(_, first), ..]) => Some(*first),
            (None, []) => None,
            (Some(wanted), ports) => {
                let fits = |(name, number): &&(Option<String>, u16)| {
                    name.as_ref() == Some(wanted) || number.to_string() == *wanted
                };
                ports.iter().find(fits).map(|(_, number)| *number)
            }
        };
        port.map(|port| SocketAddr::new(service.address, port)).ok_or_else(|| {
            Diagnostic::new(format!("the Service {self} does not exist: there is no such port")).hint(format!(
                "{}/{} has {}",
                service.namespace,
                service.name,
                ports(service)
            ))
        })
    }
}

fn ports(service: &Service) -> String {
    let port = |(name, number): &(Option<String>, u16)| match name {
        Some(name) => format!("{number} ({name})"),
        None => number.to_string(),
    };
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

fn list(services: &[Service], ui: &Ui) {
    if ui.is_json() {
        ui.json_line(&json!({"schema": 1, "type": "services", "services": services}));
        return;
    }
    let mut rows: Vec<_> = services
        .iter()
        .map(|service| vec![format!("{}/{}", service.namespace, service.name), ports(service)])
        .collect();
    rows.sort();
    table::table(&["service", "ports"], &rows).iter().for_each(|line| ui.data(line));
}

/// Connects and asks where the Services are.
async fn look(name: &str, spec: &HostSpec, ui: &Ui) -> Result<(Vec<Service>, Box<dyn Keep>)> {
    let connection = transport::connect(name, spec, &|text| ui.progress(name, text)).await;
    ui.progress_done(name);
    let job = Job {
        run_id: String::new(),
        task: Task::Services,
        program: Program::default(),
        secrets: Vec::new(),
        by: host_run::caller(),
    };
    let (ended, keep) = session::run_open(name, connection?, job, &|_| None, &Cancel::default(), |_| {}).await?;
    Ok((ended.services, keep))
}

/// Keeps the tunnels open. Returns only with an error of the first attempt.
async fn hold(name: &str, spec: &HostSpec, targets: &[Target], ui: &Ui) -> Result<()> {
    let (services, mut keep) = look(name, spec, ui).await?;
    let addresses = targets.iter().map(|target| target.find(&services)).collect::<Result<Vec<_>, _>>()?;
    let mut taken = Vec::new();
    for (target, address) in targets.iter().zip(&addresses) {
        let local = local_port(target, address.port(), &taken)?;
        taken.push(local);
        keep.forward(local, *address).await?;
        let url = format!("http://127.0.0.1:{local}");
        if ui.is_json() {
            ui.json_line(
                &json!({"schema": 1, "type": "tunnel", "service": target.to_string(), "local": local, "url": url}),
            );
        } else {
            ui.data(&format!("{target}: {url}"));
        }
    }
    ui.say("open until Ctrl-C");
    loop {
        keep.lost().await;
        ui.say(&format!("{name}: the connection is lost; trying again"));
        keep.close().await;
        keep = again(name, spec, targets, &taken, ui).await;
        ui.say(&format!("{name}: connected again"));
    }
}

/// Tries until everything is forwarded as before.
async fn again(name: &str, spec: &HostSpec, targets: &[Target], locals: &[u16], ui: &Ui) -> Box<dyn Keep> {
    let mut pause = 1;
    loop {
        match forward_all(name, spec, targets, locals, ui).await {
            Ok(keep) => return keep,
            Err(error) => ui.say(&format!("{error:#}; next attempt in {pause} s")),
        }
        tokio::time::sleep(Duration::from_secs(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn forward_all(
    name: &str,
    spec: &HostSpec,
    targets: &[Target],
    locals: &[u16],
    ui: &Ui,
) -> Result<Box<dyn Keep>> {
    let (services, mut keep) = look(name, spec, ui).await?;
    for (target, local) in targets.iter().zip(locals) {
        let result = match target.find(&services) {
            Ok(address) => keep.forward(*local, address).await,
            Err(fault) => Err(fault.into()),
        };
        if let Err(error) = result {
            keep.close().await;
            return Err(error);
        }
    }
    Ok(keep)
}

/// The port that was asked for, else the Service's own number, else any free one.
fn local_port(target: &Target, own: u16, taken: &[u16]) -> Result<u16> {
    let free = |port: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
        listener.ok().map(|address| address.port()).filter(|port| !taken.contains(port))
    };
    if let Some(wanted) = target.local {
        return free(wanted).ok_or_else(|| {
            Diagnostic::new(format!("port {wanted} of this machine is taken, or not yours to use"))
                .hint(format!("leave it out (`{target}`) for a free one"))
                .into()
        });
    }
    free(own).or_else(|| free(0)).ok_or_else(|| Diagnostic::new("this machine has no free port").into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn services() -> Vec<Service> {
        let service = |namespace: &str, name: &str, last: u8, ports: &[(&str, u16)]| Service {
            namespace: namespace.into(),
            name: name.into(),
            address: [10, 43, 0, last].into(),
            ports: ports.iter().map(|(name, number)| (Some((*name).to_owned()), *number)).collect(),
        };
        vec![
            service("mlops", "mlflow", 1, &[("http", 5000)]),
            service("mlops", "minio", 2, &[("api", 9000), ("console", 9001)]),
            service("a", "twice", 3, &[("http", 80)]),
            service("b", "twice", 4, &[("http", 80)]),
        ]
    }

    fn find(text: &str) -> Result<String, String> {
        let target: Target = text.parse().map_err(|fault: Diagnostic| fault.to_string())?;
        target.find(&services()).map(|address| address.to_string()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn services_are_found_by_name_namespace_and_port() {
        assert_eq!(find("mlflow").unwrap(), "10.43.0.1:5000");
        assert_eq!(find("15000=mlops/minio:console").unwrap(), "10.43.0.2:9001");
        assert_eq!(find("minio:9001").unwrap(), "10.43.0.2:9001");
        assert_eq!(find("b/twice").unwrap(), "10.43.0.4:80");
    }

    #[test]
    fn wrong_targets_say_what_there_is() {
        assert!(find("twice").unwrap_err().contains("a/twice, b/twice"));
        assert!(find("mlfow").unwrap_err().contains("mlflow"));
        assert!(find("minio:grpc").unwrap_err().contains("9001 (console)"));
        for text in ["", "x=mlflow", "0=mlflow", "/mlflow", "mlops/", "a/b/c", "mlflow:", "70000=mlflow"] {
            assert!(find(text).unwrap_err().contains("SERVICE[:PORT]"), "{text}");
        }
    }

    #[test]
    fn a_taken_port_is_an_error_only_when_it_was_asked_for() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let other = local_port(&"mlflow".parse().unwrap(), taken, &[]).unwrap();
        assert_ne!(other, taken);
        let asked = local_port(&format!("{taken}=mlflow").parse().unwrap(), 5000, &[]);
        assert!(asked.unwrap_err().to_string().contains("is taken"));
        assert_ne!(local_port(&"mlflow".parse().unwrap(), other, &[other]).unwrap(), other);
    }
}
