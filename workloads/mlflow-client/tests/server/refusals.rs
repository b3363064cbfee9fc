//! The ways in which a server says no, and what this client makes of them.

use mlflow_client::Error;

use crate::mlflow::Server;
use crate::{client, runtime};

#[test]
fn a_refused_host_name_is_explained() {
    // Giving the option replaces the defaults, so that even 127.0.0.1 is refused now.
    let Some(server) = Server::start_with(&["--allowed-hosts", "mlflow:5000"]) else { return };
    let mlflow = client(&server.uri());
    let host = format!("127.0.0.1:{}", server.port());
    runtime().block_on(async {
        let errors = [
            mlflow.experiment("x").await.unwrap_err(),
            mlflow.alias("m", "production").await.unwrap_err(),
            mlflow.list(&mlflow_client::Location::Proxy { path: "1".into() }).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, Error::HostRefused { host: h, .. } if *h == host), "{error}");
            let text = error.to_string();
            assert!(text.contains("--allowed-hosts") && text.contains(&host), "{text}");
            assert!(!error.is_temporary(), "nothing changes by asking again");
        }
    });
}

#[test]
fn a_login_is_asked_for_and_never_shown() {
    let Some(server) = Server::start_with(&["--app-name", "basic-auth"]) else { return };
    let with = |login: &str| client(&server.uri().replace("http://", &format!("http://{login}")));
    runtime().block_on(async {
        let nobody = client(&server.uri()).experiment("x").await.unwrap_err();
        assert!(matches!(nobody, Error::Refused { status: 401, .. }), "{nobody}");
        assert!(nobody.to_string().contains("MLFLOW_TRACKING_USERNAME"), "{nobody}");
        let wrong = with("admin:hunter2@").experiment("x").await.unwrap_err();
        assert!(!format!("{wrong} {wrong:?}").contains("hunter2"), "{wrong}");
        assert_eq!(with("admin:correct-horse-1@").experiment("x").await.unwrap(), None);
    });
}
