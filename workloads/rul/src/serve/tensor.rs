//! Nested lists of JSON numbers, read straight into one flat buffer: no tree of values in between,
//! and an error that says where (`sequence[3][15]`) instead of a byte offset.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Where numbers go, and where reading is.
#[derive(Debug)]
pub struct Sink {
    /// The key whose value is read; for messages.
    pub name: &'static str,
    pub numbers: Vec<f32>,
    /// Indices from the outermost list to the element being read. Left as it is on an error.
    path: Vec<usize>,
    /// Why reading stopped, when it was for the content and not for the syntax.
    pub problem: Option<String>,
}

impl Sink {
    pub fn new(name: &'static str) -> Self {
        Self { name, numbers: Vec::new(), path: Vec::new(), problem: None }
    }

    /// `sequence[3][15]`
    pub fn place(&self) -> String {
        let mut place = self.name.to_owned();
        for index in &self.path {
            place.push('[');
            place.push_str(&index.to_string());
            place.push(']');
        }
        place
    }

    fn refuse<E: serde::de::Error>(&mut self, reason: &str) -> E {
        let problem = format!("{}: {reason}", self.place());
        self.problem.get_or_insert(problem);
        E::custom("refused")
    }

    fn push<E: serde::de::Error>(&mut self, number: f64) -> Result<(), E> {
        let narrow = number as f32;
        if !narrow.is_finite() {
            return Err(self.refuse(&format!("{number:e} is too large for a single-precision number")));
        }
        self.numbers.push(narrow);
        Ok(())
    }
}

/// A tensor whose shape is known, outermost dimension first; `None` is "any length up to `limit`".
/// Its value is whether there was one: `null` counts as absent.
#[derive(Debug)]
pub struct Shaped<'a> {
    pub sink: &'a mut Sink,
    pub dims: &'a [Option<usize>],
    /// Largest length of a dimension that is `None`.
    pub limit: usize,
}

impl<'de> DeserializeSeed<'de> for Shaped<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Shaped<'_> {
    fn number<E: serde::de::Error>(self, number: f64) -> Result<bool, E> {
        if self.dims.is_empty() {
            self.sink.push(number)?;
            Ok(true)
        } else {
            Err(self.wrong("a number"))
        }
    }

    fn wrong<E: serde::de::Error>(self, got: &str) -> E {
        let expected = match self.dims {
            [] => "a number".to_owned(),
            [Some(n)] => format!("a list of {n} numbers"),
            [Some(n), Some(m)] => format!("a list of {n} rows of {m} numbers"),
            _ => "a list".to_owned(),
        };
        self.sink.refuse(&format!("expected {expected}, got {got}"))
    }
}

impl<'de> Visitor<'de> for Shaped<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers")
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<bool, E> {
        self.number(v)
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<bool, E> {
        self.number(v as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<bool, E> {
        self.number(v as f64)
    }

    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<bool, E> {
        Err(self.wrong(if v { "true" } else { "false" }))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<bool, E> {
        Err(self.wrong("a string"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<bool, E> {
        if self.sink.path.is_empty() { Ok(false) } else { Err(self.wrong("null")) }
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        Err(self.wrong("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let Some((&expected, inner)) = self.dims.split_first() else {
            return Err(self.wrong("a list"));
        };
        let most = expected.unwrap_or(self.limit);
        let mut count = 0;
        while count < most {
            self.sink.path.push(count);
            let element = seq.next_element_seed(Shaped { sink: &mut *self.sink, dims: inner, limit: self.limit })?;
            self.sink.path.pop();
            if element.is_none() {
                break;
            }
            count += 1;
        }
        // What is too much is counted, never stored.
        while count >= most && seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        let what = if inner.is_empty() { "number" } else { "row" };
        let several = if count == 1 { "" } else { "s" };
        match expected {
            Some(n) if n != count => Err(self.sink.refuse(&format!("{count} {what}{several}, expected {n}"))),
            None if count > self.limit => {
                Err(self.sink.refuse(&format!("{count} windows, at most {} in one request", self.limit)))
            }
            _ => Ok(true),
        }
    }
}

/// A tensor of any shape, flat or nested, without ragged lists. Its value is the dimensions.
#[derive(Debug)]
pub struct Nested<'a> {
    pub sink: &'a mut Sink,
    /// Most numbers in all.
    pub limit: usize,
}

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = Vec<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<usize>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers")
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Vec<usize>, E> {
        if self.sink.numbers.len() == self.limit {
            let limit = self.limit;
            return Err(self.sink.refuse(&format!("more than {limit} numbers")));
        }
        self.sink.push(v)?;
        Ok(Vec::new())
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Vec<usize>, E> {
        self.visit_f64(v as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Vec<usize>, E> {
        self.visit_f64(v as f64)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Vec<usize>, E> {
        Err(self.sink.refuse("expected a number, got a boolean"))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Vec<usize>, E> {
        Err(self.sink.refuse("expected a number, got a string"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Vec<usize>, E> {
        Err(self.sink.refuse("expected a number, got null"))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<Vec<usize>, A::Error> {
        Err(self.sink.refuse("expected a number, got an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
        let mut first: Option<Vec<usize>> = None;
        let mut count = 0;
        loop {
            self.sink.path.push(count);
            let Some(inner) = seq.next_element_seed(Nested { sink: &mut *self.sink, limit: self.limit })? else {
                self.sink.path.pop();
                break;
            };
            match &first {
                Some(first) if *first != inner => {
                    return Err(self.sink.refuse(&format!("shape {inner:?}, but its neighbours have {first:?}")));
                }
                Some(_) => {}
                None => first = Some(inner),
            }
            self.sink.path.pop();
            count += 1;
        }
        let mut dims = vec![count];
        dims.extend(first.unwrap_or_default());
        Ok(dims)
    }
}

/// What a failed read means: the content's fault (`Err(Ok(reason))`), or not JSON at all.
pub fn explain(error: &serde_json::Error, sink: Option<&Sink>, body: &[u8]) -> Fault {
    if let Some(problem) = sink.and_then(|sink| sink.problem.clone()) {
        return Fault::Content(problem);
    }
    let text = error.to_string();
    if text.starts_with("number out of range") {
        let place = sink.map_or_else(|| "body".to_owned(), Sink::place);
        return Fault::Content(format!("{place}: {text}"));
    }
    if error.is_data() {
        return Fault::Content(text);
    }
    let hint = if contains(body, b"NaN") || contains(body, b"Infinity") {
        "; NaN and Infinity do not exist in JSON, send finite numbers"
    } else if body.is_empty() {
        "; the body is empty"
    } else {
        ""
    };
    Fault::Syntax(format!("not valid JSON: {text}{hint}"))
}

/// See [`explain`].
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    Content(String),
    Syntax(String),
}

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|part| part == word)
}

/// For a key that may be given only once.
pub fn twice<E: serde::de::Error>(key: &str) -> E {
    E::custom(format!("{key} is given twice"))
}
