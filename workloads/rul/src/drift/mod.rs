//! `rul drift`: is what the service sees still what its model was trained on?

pub mod record;
