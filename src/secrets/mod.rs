//! Secrets: the age store, the Secret type, the redactor.
