//! The protobuf wire format, both ways. Reading borrows from the input and never allocates.

use crate::Error;

/// A field's value. Bytes carry their place in the file, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(Message<'a>),
}

/// A length-delimited stretch of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub bytes: &'a [u8],
    /// Of the first byte, from the start of the file.
    pub offset: usize,
}

pub(super) fn malformed(offset: usize, reason: impl Into<String>) -> Error {
    Error::Malformed { offset, reason: reason.into() }
}

impl<'a> Message<'a> {
    pub(super) fn fields(self) -> Fields<'a> {
        Fields { message: self, at: 0 }
    }

    pub(super) fn text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes).map_err(|e| malformed(self.offset + e.valid_up_to(), "text is not UTF-8"))
    }

    /// All of it as packed varints.
    pub(super) fn varints(self) -> Varints<'a> {
        Varints(self.fields())
    }
}

/// Walks the fields of a message; stops after the first error.
pub(super) struct Fields<'a> {
    message: Message<'a>,
    at: usize,
}

impl<'a> Fields<'a> {
    fn offset(&self) -> usize {
        self.message.offset + self.at
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let start = self.offset();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.message.bytes.get(self.at) else {
                return Err(malformed(start, "a number is cut off"));
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                if shift == 63 && byte > 1 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(malformed(start, "a number is longer than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<Message<'a>, Error> {
        let left = self.message.bytes.len() - self.at;
        let Some(length) = usize::try_from(length).ok().filter(|l| *l <= left) else {
            return Err(malformed(self.offset(), format!("a field of {length} bytes, only {left} are left")));
        };
        let taken = Message { bytes: &self.message.bytes[self.at..self.at + length], offset: self.offset() };
        self.at += length;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Error> {
        let start = self.offset();
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|n| (1..1 << 29).contains(n))
            .ok_or_else(|| malformed(start, format!("field number {} is not allowed", key >> 3)))?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let four = self.take(4)?;
                let mut word = [0; 4];
                word.copy_from_slice(four.bytes);
                Value::Fixed32(u32::from_le_bytes(word))
            }
            other => {
                return Err(malformed(start, format!("wire type {other} is not used by ONNX")));
            }
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.bytes.len() {
            return None;
        }
        let item = self.field();
        if item.is_err() {
            self.at = self.message.bytes.len();
        }
        Some(item)
    }
}

pub(super) struct Varints<'a>(Fields<'a>);

impl Iterator for Varints<'_> {
    type Item = Result<u64, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.at >= self.0.message.bytes.len() {
            return None;
        }
        let item = self.0.varint();
        if item.is_err() {
            self.0.at = self.0.message.bytes.len();
        }
        Some(item)
    }
}

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn int(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        // Two's complement: that is how protobuf writes a negative int64.
        self.varint(value as u64);
        self
    }

    pub(super) fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub(super) fn message(self, field: u32, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
