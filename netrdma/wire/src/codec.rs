//! Writing and reading message bodies: little-endian fields one after the other, strings and lists preceded by
//! their length. A reader that runs out, meets a length over its limit or is left with bytes is an error.

use std::fmt;

use crate::units::to_u32;

/// Why bytes are not the message they claim to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub struct WireError {
    /// What is wrong.
    pub kind: WireErrorKind,
    /// The field or message in which it was met.
    pub what: &'static str,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireErrorKind {
    /// The bytes end before the field does.
    Short,
    /// Bytes are left after the last field.
    Trailing,
    /// A length or count is over its limit.
    TooLong,
    /// A checksum does not agree.
    Checksum,
    /// Not a Weft frame.
    Magic,
    /// A version this build does not speak.
    Version,
    /// A value that means nothing here (an unknown kind, a non-zero reserved byte).
    Value,
}

impl WireError {
    /// An error of `kind` in `what`.
    pub const fn new(kind: WireErrorKind, what: &'static str) -> WireError {
        WireError { kind, what }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.kind {
            WireErrorKind::Short => "ends too early",
            WireErrorKind::Trailing => "has bytes after its end",
            WireErrorKind::TooLong => "is over its limit",
            WireErrorKind::Checksum => "does not match its checksum",
            WireErrorKind::Magic => "is not a Weft frame: does the other end speak Weft?",
            WireErrorKind::Version => {
                "has a version this build does not speak: upgrade the older end"
            }
            WireErrorKind::Value => "has a value that means nothing",
        };
        write!(f, "{} {}", self.what, why)
    }
}

/// Appends fields to a body.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`, whatever it holds.
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.out.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.out.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.out.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.out.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Bytes without a length (fixed arrays).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A `u32` length and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(to_u32(bytes.len())).raw(bytes)
    }
}

/// Takes fields off a body.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `body`; errors name `what`.
    pub fn new(body: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: body, what }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// `Short` when fewer are left.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error(WireErrorKind::Short)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    /// One byte.
    ///
    /// # Errors
    /// `Short` when the body has ended; so for each getter below.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// `Short`.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// `Short`.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// `Short`.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes, signed.
    ///
    /// # Errors
    /// `Short`.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_le_bytes)
    }

    /// Sixteen bytes: a UUID.
    ///
    /// # Errors
    /// `Short`.
    pub fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        self.array()
    }

    /// A 0 or 1.
    ///
    /// # Errors
    /// `Short`; `Value` for any other byte.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error(WireErrorKind::Value)),
        }
    }

    /// A `u32` length and that many bytes.
    ///
    /// # Errors
    /// `Short`; `TooLong` when the length is over `bytes_max`.
    pub fn bytes(&mut self, bytes_max: usize) -> Result<&'a [u8], WireError> {
        let count = self.count(bytes_max)?;
        self.raw(count)
    }

    /// A `u32` count of at most `count_max`.
    ///
    /// # Errors
    /// `Short`; `TooLong`.
    pub fn count(&mut self, count_max: usize) -> Result<usize, WireError> {
        let count = crate::units::to_usize(u64::from(self.u32()?));
        if count > count_max {
            return Err(self.error(WireErrorKind::TooLong));
        }
        Ok(count)
    }

    /// What is left, all of it.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// `Trailing`.
    pub fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(WireErrorKind::Trailing)) }
    }

    /// An error of `kind` in the message being read.
    pub fn error(&self, kind: WireErrorKind) -> WireError {
        WireError::new(kind, self.what)
    }
}
