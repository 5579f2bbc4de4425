//! [`Opaque`]: a value whose type the compiler need not look into.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// A shared value behind a wall. The compiler proves for every future that refers to a statement's context that all of it
/// may cross threads, and for some futures it forgets the proof at once. Through all of DataFusion's plan types
/// that is seconds each time; here it ends at `dyn Any + Send + Sync`.
pub(crate) struct Opaque<T> {
    value: Box<dyn Any + Send + Sync>,
    /// Says nothing about threads, whatever `T` is.
    of: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Opaque<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Box::new(value), of: PhantomData }
    }
}

impl<T: 'static> Deref for Opaque<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.downcast_ref().expect("`new` put a T there")
    }
}

impl<T: fmt::Debug + 'static> fmt::Debug for Opaque<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
