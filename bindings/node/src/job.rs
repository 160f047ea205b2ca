//! Where an operation runs, and what becomes of its error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use alknet_fs::Error;
use napi::bindgen_prelude::{AsyncTask, Either, ToNapiValue, TypeName};
use napi::{Env, Status, Task, ValueType, sys};
use serde_json::json;

/// What an operation gives: its value, or a promise of it.
pub(crate) type Outcome<T> = Either<T, AsyncTask<Job<T>>>;

type Work<T> = Box<dyn FnOnce() -> Result<T, Error> + Send>;

/// An operation that waits for a thread of libuv's pool.
pub struct Job<T>(Option<Work<T>>);

impl<T: Send + ToNapiValue + 'static> Task for Job<T> {
    type Output = Wrapped<T>;
    type JsValue = Wrapped<T>;

    fn compute(&mut self) -> napi::Result<Wrapped<T>> {
        let work = self.0.take();
        let work = work.ok_or_else(|| napi::Error::from_reason("the operation ran already"))?;
        now(work).map(Wrapped)
    }

    fn resolve(&mut self, _env: Env, output: Wrapped<T>) -> napi::Result<Wrapped<T>> {
        Ok(output)
    }
}

/// A value that a promise resolves to.
pub struct Wrapped<T>(T);

impl<T> TypeName for Wrapped<T> {
    fn type_name() -> &'static str {
        "unknown"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl<T: ToNapiValue> ToNapiValue for Wrapped<T> {
    unsafe fn to_napi_value(env: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        // SAFETY: as the caller's.
        unsafe { T::to_napi_value(env, value.0) }
    }
}

/// Runs an operation on the calling thread, or as a promise on libuv's pool.
pub(crate) fn run<T: Send + ToNapiValue + 'static>(
    later: bool,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> napi::Result<Outcome<T>> {
    if later {
        Ok(Either::B(AsyncTask::new(Job(Some(Box::new(work))))))
    } else {
        now(work).map(Either::A)
    }
}

/// Runs an operation on the calling thread; a panic, which is a bug, becomes an exception too.
pub(crate) fn now<T>(work: impl FnOnce() -> Result<T, Error>) -> napi::Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => packed(&error),
        Err(panic) => said(&*panic),
    };
    Err(napi::Error::new(Status::GenericFailure, reason))
}

/// Tells what a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    format!("alknet-fs panicked: {said}")
}

/// Packs an error into the message of a JavaScript one, from which the TypeScript layer makes an
/// error of Node's shape.
pub(crate) fn packed(error: &Error) -> String {
    let kind = error.kind();
    let detail = (error.detail() != kind.text()).then(|| error.detail());
    let source = std::error::Error::source(error).map(ToString::to_string);
    json!({
        "kind": kind.name(),
        "code": kind.code(),
        "errno": kind.errno(),
        "op": error.operation(),
        "path": error.subject(),
        "detail": detail,
        "source": source,
    })
    .to_string()
}
