//! The command line: definitions only, no logic.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Brings a blank Ubuntu VM to a running, self-healing MLOps platform, again and again, and proves it.
#[derive(Debug, Parser)]
#[command(name = "provision", version, max_term_width = 110, propagate_version = false, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Inventory file: which hosts, with what values [default: the only one in inventory/]
    #[arg(short, long, global = true, env = "PROVISION_INVENTORY", value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Project folder [default: the one that the current folder lies in]
    #[arg(long, global = true, env = "PROVISION_PROJECT", value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Override one value; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Take artifacts, images and packages from this bundle, and nothing from the network
    #[arg(long, global = true, env = "PROVISION_BUNDLE", value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Key that the bundle must be signed by: RW…, or a file [default: the public half of your own]
    #[arg(long, global = true, env = "PROVISION_BUNDLE_PUBLIC_KEY", value_name = "KEY")]
    pub public_key: Option<String>,
    /// Print JSON lines on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Show every line of the programs that run on the host
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// Which stages and hosts.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Only these stages (what they need is taken as done)
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    pub only: Vec<String>,
    /// All but these stages
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    pub skip: Vec<String>,
    /// Only this stage and those that come after it
    #[arg(long, value_name = "STAGE", conflicts_with = "only")]
    pub from: Option<String>,
    /// Only these hosts of the inventory
    #[arg(long = "host", value_delimiter = ',', value_name = "HOST")]
    pub hosts: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the hosts to what the stages say
    Up(Selection),
    /// Show what `up` would do; changes nothing. Exit code 3 when there is something to do
    Plan(Selection),
    /// List, show or rerun stages
    #[command(subcommand)]
    Stage(StageCommand),
    /// What the host's ledger says of the last runs
    Status {
        #[command(flatten)]
        hosts: HostSelection,
        /// What everything uses: memory now and at most, disk by purpose
        #[arg(long)]
        resources: bool,
    },
    /// Reach Services of the cluster at ports of this machine, until Ctrl-C; without arguments: which there are
    Tunnel {
        /// `mlflow`, `mlops/minio:console`, or with the local port: `15000=mlflow`
        #[arg(value_name = "[LOCAL=]SERVICE[:PORT]")]
        targets: Vec<String>,
        /// The host, where the inventory has several
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
    },
    /// Run the checks of all stages: does everything that was promised answer?
    Healthcheck(Selection),
    /// Check the project without connecting to anything
    Validate,
    /// Explain values, print JSON Schemas
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Age-encrypted secrets of the project
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Pinned artifacts from outside
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// Everything that the stages need in one signed file, for hosts without a network
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Throw-away blank hosts on this machine
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// The target end: speaks with the controller over standard input and output
    #[command(hide = true)]
    Agent,
}

#[derive(Debug, Clone, Default, Args)]
pub struct HostSelection {
    /// Only these hosts of the inventory
    #[arg(long = "host", value_delimiter = ',', value_name = "HOST")]
    pub hosts: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum StageCommand {
    /// All stages, in order
    List,
    /// One stage: its resources and checks with concrete values
    Show { name: String },
    /// Bring one stage to what it says, now
    Rerun {
        name: String,
        #[command(flatten)]
        hosts: HostSelection,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Who says what about a value, and who wins; without a key: all values
    Explain { key: Option<String> },
    /// JSON Schema of stage or inventory files, for editors
    Schema { what: SchemaKind },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    Stage,
    Inventory,
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Make an identity (where there is none) and random values for everything that the stages ask for
    Init,
    /// Set a value, read from standard input (without its last newline)
    Set { key: String },
    /// Print a value
    Get { key: String },
    /// Names of all values
    List,
    /// Edit all values in $EDITOR
    Edit,
    /// Forget a value
    Remove { key: String },
    /// Encrypt everything anew, to exactly these recipients [default: the ones in the file]
    Rekey {
        /// Public key age1…; may be repeated
        #[arg(long = "recipient", value_name = "AGE1…")]
        recipients: Vec<String>,
    },
    /// Can everything be decrypted, is nothing missing, are all recipients current?
    Check,
}

#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// All artifacts of the chosen inventory
    List,
    /// Bring artifacts into the cache: download, pull, or build by their recipe
    Fetch { names: Vec<String> },
    /// Compare what is in the cache with its hashes
    Verify,
}

#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Make a bundle of what the chosen stages need
    Create(BundleCreate),
    /// What is in a bundle; verifies nothing
    List { file: PathBuf },
    /// Is it signed by the key, and every byte what it must be?
    Verify { file: PathBuf },
    /// Make a key pair to sign bundles with; prints the public key
    Keygen {
        /// Where the secret key goes; the public one goes beside it [default: ~/.config/provision/bundle.key]
        #[arg(long, value_name = "FILE")]
        secret_key: Option<PathBuf>,
    },
}

/// How a bundle is made.
#[derive(Debug, Clone, Args)]
pub struct BundleCreate {
    /// The file to write
    pub file: PathBuf,
    #[command(flatten)]
    pub selection: Selection,
    /// Key to sign with [default: ~/.config/provision/bundle.key]
    #[arg(long, value_name = "FILE")]
    pub secret_key: Option<PathBuf>,
    /// System of the hosts, like ubuntu-22.04 [default: the system of this machine]
    #[arg(long, value_name = "OS-VERSION")]
    pub system: Option<String>,
    /// APT sources and keys of that system: a copy of its /etc/apt [default: /etc/apt]
    #[arg(long, value_name = "DIR")]
    pub apt: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Make a blank host and write inventory/NAME.yml for it
    Up {
        #[arg(default_value = "sandbox")]
        name: String,
        /// A host that reaches nothing: no default route, no way out
        #[arg(long)]
        offline: bool,
    },
    /// Remove a host and everything it left
    Down {
        #[arg(default_value = "sandbox")]
        name: String,
        /// All hosts
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// All sandbox hosts
    List,
    /// Run a command as root in a host; without one, a login shell
    Shell {
        #[arg(default_value = "sandbox")]
        name: String,
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Print a host's IP address
    Address {
        #[arg(default_value = "sandbox")]
        name: String,
    },
}
