/// One cache line, so that a full vector load never crosses two.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Numbers that start on a cache line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    pub(crate) fn zeros(len: usize) -> Self {
        let mut out = Self::default();
        out.grow(len);
        out
    }

    /// Makes room for `len` numbers; what is there stays, what is new is zero.
    pub(crate) fn grow(&mut self, len: usize) {
        if len > self.len {
            self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
            self.len = len;
        }
    }

    /// Its first number, whole lines from there on.
    pub(super) fn ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    pub(super) fn ptr_mut(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` is `len` or more initialised f32 without padding (`Line` is repr(C) and
        // exactly as large as its alignment).
        unsafe { std::slice::from_raw_parts(self.ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr_mut(), self.len) }
    }
}
