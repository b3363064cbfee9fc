//! Rows, engines, fleets, and the names of the columns.

use crate::error::Error;
use std::fmt;

/// Measured columns per row: 3 operational settings, then 21 sensors.
pub const COLUMNS: usize = 24;
/// Operational settings per row.
pub const SETTINGS: usize = 3;

/// One cycle (flight) of one engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Cycles since new, from 1.
    pub cycle: u32,
    /// Settings 1-3, then sensors 1-21, in file order and in the file's units.
    pub values: [f64; COLUMNS],
}

impl Row {
    /// Altitude (1000 ft), Mach number, throttle resolver angle (degrees).
    #[must_use]
    pub fn settings(&self) -> [f64; SETTINGS] {
        [self.values[0], self.values[1], self.values[2]]
    }

    /// The value of one column.
    #[must_use]
    pub fn get(&self, column: Column) -> f64 {
        self.values[column.0]
    }
}

/// One engine: its cycles 1, 2, 3, ... without a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Unit number, as in the file.
    pub id: u32,
    pub rows: Vec<Row>,
}

/// Engines in the order of their file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    pub engines: Vec<Engine>,
}

impl Fleet {
    /// Rows of all engines together.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.engines.iter().map(|e| e.rows.len()).sum()
    }

    /// All rows, engine after engine.
    pub fn rows(&self) -> impl Iterator<Item = &Row> + Clone {
        self.engines.iter().flat_map(|e| &e.rows)
    }
}

/// One measured column: an operational setting or a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column(usize);

impl Column {
    /// All 24, in file order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COLUMNS).map(Self)
    }

    /// Sensor 1..=21.
    #[must_use]
    pub fn sensor(number: usize) -> Option<Self> {
        (1..=COLUMNS - SETTINGS).contains(&number).then(|| Self(SETTINGS + number - 1))
    }

    /// Operational setting 1..=3.
    #[must_use]
    pub fn setting(number: usize) -> Option<Self> {
        (1..=SETTINGS).contains(&number).then(|| Self(number - 1))
    }

    /// Place in [`Row::values`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }

    /// By name: `op_setting_1`, `setting_1`, `sensor_02`, `sensor_2`, `s2`.
    ///
    /// # Errors
    /// [`Error::UnknownColumn`].
    pub fn by_name(name: &str) -> Result<Self, Error> {
        let number = |prefix: &str| {
            let digits = name.strip_prefix(prefix)?;
            // `parse` would accept a sign.
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<usize>().ok()).flatten()
        };
        let setting = number("op_setting_").or_else(|| number("setting_"));
        let sensor = number("sensor_").or_else(|| number("s"));
        setting
            .and_then(Self::setting)
            .or_else(|| sensor.and_then(Self::sensor))
            .ok_or_else(|| Error::UnknownColumn { name: name.to_owned() })
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < SETTINGS {
            write!(f, "op_setting_{}", self.0 + 1)
        } else {
            write!(f, "sensor_{:02}", self.0 - SETTINGS + 1)
        }
    }
}

/// The columns that a model sees, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSet {
    columns: Vec<Column>,
}

impl FeatureSet {
    /// The 16 columns of the served model: all but op_setting_2, op_setting_3 and sensors 1, 5, 10, 16, 18, 19,
    /// which are constant in FD001.
    #[must_use]
    pub fn served() -> Self {
        const DROPPED: [usize; 8] = [1, 2, 3, 7, 12, 18, 20, 21];
        Self { columns: Column::all().filter(|c| !DROPPED.contains(&c.index())).collect() }
    }

    /// The 14 sensors that the literature uses: 2 3 4 7 8 9 11 12 13 14 15 17 20 21.
    #[must_use]
    pub fn literature() -> Self {
        const SENSORS: [usize; 14] = [2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21];
        Self { columns: SENSORS.into_iter().filter_map(Column::sensor).collect() }
    }

    /// By names, in the given order. See [`Column::by_name`].
    ///
    /// # Errors
    /// An unknown name, a repeated one, or none at all.
    pub fn by_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut columns = Vec::new();
        for name in names {
            let column = Column::by_name(name)?;
            if columns.contains(&column) {
                return Err(Error::BadParameter { name: "feature", value: name.to_owned(), reason: "named twice" });
            }
            columns.push(column);
        }
        if columns.is_empty() {
            return Err(Error::Empty("the list of features"));
        }
        Ok(Self { columns })
    }

    /// The columns, in model order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Number of features.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Never true: every constructor refuses an empty list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Canonical names, in model order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_served_features_in_file_order() {
        let names = FeatureSet::served().names();
        assert_eq!(names.len(), 16);
        assert_eq!(names[..4], ["op_setting_1", "sensor_02", "sensor_03", "sensor_04"]);
        assert_eq!(names[4..7], ["sensor_06", "sensor_07", "sensor_08"]);
        assert_eq!(names[12..], ["sensor_15", "sensor_17", "sensor_20", "sensor_21"]);
        for gone in ["sensor_01", "sensor_05", "sensor_10", "sensor_16", "sensor_18", "sensor_19"] {
            assert!(!names.iter().any(|n| n == gone));
        }
        assert_eq!(FeatureSet::literature().len(), 14);
    }

    #[test]
    fn names_go_both_ways() {
        for column in Column::all() {
            assert_eq!(Column::by_name(&column.to_string()).unwrap(), column);
        }
        assert_eq!(Column::by_name("s2").unwrap(), Column::by_name("sensor_02").unwrap());
        for bad in ["", "s", "s0", "s22", "s+2", "setting_4", "sensor_", "cycle", "s99999999999999999999"] {
            assert!(Column::by_name(bad).is_err(), "{bad}");
        }
        let error = FeatureSet::by_names(["s2", "sensor_02"]).unwrap_err();
        assert!(error.to_string().contains("named twice"));
        assert!(FeatureSet::by_names([]).is_err());
    }
}
