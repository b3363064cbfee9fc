//! A little drawing: a frame with axes, in SVG. Colours are classes, so that one style sheet serves light and dark.

use std::fmt::Write;

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// Where text begins, ends, or has its middle.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that grows.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

impl Svg {
    /// `title` is for those who cannot see it.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Self { width, height, title: title.to_owned(), body: String::new() }
    }

    pub fn rect(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), class: &str) {
        let (w, h) = (w.max(0.0), h.max(0.0));
        let _ = write!(self.body, r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" class="{class}"/>"#);
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = write!(self.body, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#);
    }

    pub fn dot(&mut self, (x, y): (f64, f64), r: f64, class: &str) {
        let _ = write!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{r}" class="{class}"/>"#);
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ =
            write!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#);
    }

    /// Turned a quarter to the left, around its middle: the label of an upright axis.
    pub fn upright(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text transform="translate({x:.1} {y:.1}) rotate(-90)" text-anchor="middle" class="{class}">{text}</text>"#
        );
    }

    /// A line through points.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        if points.is_empty() {
            return;
        }
        let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(self.body, r#"<polyline points="{}" class="{class}"/>"#, list.join(" "));
    }

    pub fn finish(self) -> String {
        let (w, h, title, body) = (self.width, self.height, escape(&self.title), self.body);
        format!(r#"<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}"><title>{title}</title>{body}</svg>"#)
    }
}

/// A rectangle with two scales.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    pub across: (f64, f64),
    pub up: (f64, f64),
}

impl Frame {
    pub fn at_x(&self, value: f64) -> f64 {
        let (low, high) = self.across;
        self.x + (value.clamp(low, high) - low) / (high - low) * self.width
    }

    pub fn at_y(&self, value: f64) -> f64 {
        let (low, high) = self.up;
        self.bottom() - (value.clamp(low, high) - low) / (high - low) * self.height
    }

    pub fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.at_x(x), self.at_y(y))
    }

    pub fn bottom(&self) -> f64 {
        self.y + self.height
    }

    pub fn right(&self) -> f64 {
        self.x + self.width
    }

    /// Lines and numbers across at round values, and what they mean.
    pub fn y_axis(&self, svg: &mut Svg, count: usize, label: &str) {
        for value in ticks(self.up, count) {
            let y = self.at_y(value);
            svg.line((self.x, y), (self.right(), y), "grid");
            svg.text((self.x - 8.0, y + 4.0), Anchor::End, "tick", &number(value));
        }
        if !label.is_empty() {
            svg.upright((self.x - 44.0, self.y + self.height / 2.0), "label", label);
        }
    }

    pub fn x_axis(&self, svg: &mut Svg, count: usize, label: &str) {
        svg.line((self.x, self.bottom()), (self.right(), self.bottom()), "axis");
        for value in ticks(self.across, count) {
            let x = self.at_x(value);
            svg.line((x, self.bottom()), (x, self.bottom() + 4.0), "axis");
            svg.text((x, self.bottom() + 18.0), Anchor::Middle, "tick", &number(value));
        }
        svg.text((self.x + self.width / 2.0, self.bottom() + 36.0), Anchor::Middle, "label", label);
    }
}

/// About `count` round values within the range.
pub fn ticks((low, high): (f64, f64), count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|k| k * power).find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    (first..).map(|k| k as f64 * step).take_while(|v| *v <= high + step * 1e-9).take(50).collect()
}

/// As short as it can be said.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.replace('-', "\u{2212}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 125.0), 5), [0.0, 25.0, 50.0, 75.0, 100.0, 125.0]);
        assert_eq!(ticks((0.0, 1.0), 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks((-3.0, 3.0), 3), [-2.0, 0.0, 2.0]);
        assert_eq!(ticks((1.0, 1.0), 3), [1.0]);
        assert_eq!(number(0.5) + &number(-2.0) + &number(1e-9), "0.5\u{2212}20");
    }

    #[test]
    fn what_is_written_cannot_leave_its_place() {
        let mut svg = Svg::new(10.0, 10.0, "<a>");
        svg.text((1.0, 1.0), Anchor::Middle, "x", "a<b & \"c\"");
        let text = svg.finish();
        assert!(text.contains("a&lt;b &amp; &quot;c&quot;") && text.contains("&lt;a&gt;"), "{text}");
    }

    #[test]
    fn values_outside_are_drawn_at_the_edge() {
        let frame = Frame { x: 10.0, y: 0.0, width: 100.0, height: 50.0, across: (0.0, 10.0), up: (0.0, 1.0) };
        assert_eq!(frame.at((5.0, 0.5)), (60.0, 25.0));
        assert_eq!(frame.at((-5.0, 7.0)), (10.0, 0.0));
    }
}
