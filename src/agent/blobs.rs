//! Files of the controller, asked for over the connection, one at a time.

use anyhow::{Result, bail};
use async_trait::async_trait;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, mpsc};

use super::protocol::Reply;
use crate::host::BlobSource;

/// What the controller sends of a blob.
#[derive(Debug)]
pub enum Piece {
    /// Whether it has it; its bytes follow when it does.
    Answer { sha256: String, found: bool },
    /// Empty at the end.
    Bytes(Vec<u8>),
}

/// The controller as a source of files.
pub struct Controller {
    replies: mpsc::UnboundedSender<Reply>,
    pieces: Mutex<mpsc::Receiver<Piece>>,
}

impl Controller {
    pub fn new(replies: mpsc::UnboundedSender<Reply>, pieces: mpsc::Receiver<Piece>) -> Self {
        Self { replies, pieces: Mutex::new(pieces) }
    }
}

#[async_trait]
impl BlobSource for Controller {
    async fn fetch(&self, sha256: &str, dest: &mut File) -> Result<bool> {
        let mut pieces = self.pieces.lock().await;
        if self.replies.send(Reply::NeedBlob { sha256: sha256.to_owned() }).is_err() {
            bail!("the controller has gone");
        }
        // Rests of a transfer that was given up (full disk, interruption) come first.
        loop {
            match pieces.recv().await {
                Some(Piece::Answer { sha256: of, found }) if of == sha256 => {
                    if !found {
                        return Ok(false);
                    }
                    break;
                }
                Some(_) => {}
                None => bail!("the controller has gone"),
            }
        }
        loop {
            match pieces.recv().await {
                Some(Piece::Bytes(bytes)) if bytes.is_empty() => break,
                Some(Piece::Bytes(bytes)) => dest.write_all(&bytes).await?,
                Some(Piece::Answer { .. }) => {
                    bail!("the controller sent another blob in the middle of this one")
                }
                None => bail!("the controller has gone"),
            }
        }
        dest.flush().await?;
        Ok(true)
    }
}
