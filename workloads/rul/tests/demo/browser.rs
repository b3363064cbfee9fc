//! A real browser without a window: what the report looks like in it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const SIZE: (u32, u32) = (1200, 3000);

pub struct Browser(PathBuf);

/// What was drawn.
#[derive(Debug)]
pub struct Picture {
    /// Different ones.
    pub colours: usize,
    /// Of all pixels, 0 to 1.
    pub brightness: f64,
}

impl Browser {
    /// `None`, and says so, where there is none that works (Ubuntu's package is a stub that wants snapd).
    pub fn find() -> Option<Self> {
        let places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        let all = NAMES.iter().flat_map(|name| places.iter().map(move |place| place.join(name)));
        let works = |program: &PathBuf| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let found = all.into_iter().filter(|program| program.is_file()).find(works);
        if found.is_none() {
            eprintln!(
                "left out: the report was not opened in a browser, for there is none; install chromium (Debian) or google-chrome"
            );
        }
        found.map(Self)
    }

    fn run(&self, page: &Path, args: &[String]) -> Vec<u8> {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new(&self.0)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={},{}", SIZE.0, SIZE.1))
            .args(args)
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The page as the browser has understood it.
    pub fn dom(&self, page: &Path) -> String {
        String::from_utf8(self.run(page, &["--dump-dom".to_owned()])).unwrap()
    }

    /// Takes a picture for whoever prefers light or dark, and keeps it.
    pub fn picture(&self, page: &Path, dark: bool, to: &Path) -> Picture {
        let scheme = format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 });
        self.run(page, &[scheme, format!("--screenshot={}", to.display())]);
        look_at(&std::fs::read(to).unwrap())
    }
}

/// Decodes a PNG of 8 bits a channel, red, green, blue and perhaps alpha (<https://www.w3.org/TR/png-3/>).
fn look_at(png: &[u8]) -> Picture {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    let (mut at, mut packed) = (8, Vec::new());
    while at < png.len() {
        let length = number(at) as usize;
        if &png[at + 4..at + 8] == b"IDAT" {
            packed.extend_from_slice(&png[at + 8..at + 8 + length]);
        }
        at += 12 + length;
    }
    assert_eq!((number(16), number(20)), SIZE);
    let depth = match (png[24], png[25]) {
        (8, 2) => 3,
        (8, 6) => 4,
        other => panic!("a kind of PNG that is not expected: {other:?}"),
    };
    let mut raw = Vec::new();
    flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut raw).unwrap();
    let stride = SIZE.0 as usize * depth;
    let mut above = vec![0u8; stride];
    let mut colours = std::collections::HashSet::new();
    let mut sum = 0u64;
    for line in raw.chunks_exact(stride + 1) {
        let line = unfilter(line, &above, depth);
        for pixel in line.chunks_exact(depth) {
            colours.insert([pixel[0], pixel[1], pixel[2]]);
            sum += pixel[..3].iter().map(|&c| u64::from(c)).sum::<u64>();
        }
        above = line;
    }
    let pixels = f64::from(SIZE.0) * f64::from(SIZE.1);
    Picture { colours: colours.len(), brightness: sum as f64 / (pixels * 3.0 * 255.0) }
}

/// One line: a byte that names the filter, then the filtered bytes.
fn unfilter(line: &[u8], above: &[u8], depth: usize) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(above.len());
    for (k, &value) in line[1..].iter().enumerate() {
        let left = if k >= depth { i32::from(out[k - depth]) } else { 0 };
        let corner = if k >= depth { i32::from(above[k - depth]) } else { 0 };
        let up = i32::from(above[k]);
        let predicted = match line[0] {
            0 => 0,
            1 => left,
            2 => up,
            3 => (left + up) / 2,
            4 => {
                let p = left + up - corner;
                let by = |x: i32| (p - x).abs();
                if by(left) <= by(up) && by(left) <= by(corner) {
                    left
                } else if by(up) <= by(corner) {
                    up
                } else {
                    corner
                }
            }
            other => panic!("no such filter: {other}"),
        };
        out.push(value.wrapping_add((predicted & 0xff) as u8));
    }
    out
}
