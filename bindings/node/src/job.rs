//! Where an operation runs, and what becomes of its error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use alknet_fs::Error;
use napi::bindgen_prelude::{AsyncTask, JsValue, ToNapiValue, TypeName};
use napi::{Env, JsDeferred, Status, Task, ValueType, sys};
use serde_json::json;

use crate::lane::Lane;
use crate::waiting::hurriedly;

type Work<T> = Box<dyn FnOnce() -> Result<T, Error> + Send>;

/// Work that may have to wait for a content, and then is done again where it may.
type Reading<T> = Box<dyn Fn() -> Result<T, Error> + Send>;

/// What an operation gives: its value, or a promise of it.
pub struct Outcome<T>(Where<T>);

enum Where<T> {
    Done(T),
    /// On libuv's pool.
    Pool(Work<T>),
    Lane(Lane, Work<T>),
    ReadOnPool(Reading<T>),
    ReadOnLane(Lane, Reading<T>),
}

/// Runs an operation that waits for nobody: on the calling thread, or as a promise on libuv's pool.
pub(crate) fn run<T: Send + ToNapiValue + 'static>(
    later: bool,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> napi::Result<Outcome<T>> {
    Ok(Outcome(match later {
        true => Where::Pool(Box::new(work)),
        false => Where::Done(now(work)?),
    }))
}

/// Runs an operation that may wait for others, or take long: on the calling thread, or as a promise
/// on a thread of a lane.
pub(crate) fn run_on<T: Send + ToNapiValue + 'static>(
    lane: &Lane,
    later: bool,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> napi::Result<Outcome<T>> {
    Ok(Outcome(match later {
        true => Where::Lane(lane.clone(), Box::new(work)),
        false => Where::Done(now(work)?),
    }))
}

/// Runs an operation that reads a content: on the calling thread, or as a promise on libuv's pool, or
/// on a lane; where it has to wait for the content, on a thread for that.
pub(crate) fn run_reading<T: Send + ToNapiValue + 'static>(
    lane: Option<&Lane>,
    later: bool,
    work: impl Fn() -> Result<T, Error> + Send + 'static,
) -> napi::Result<Outcome<T>> {
    Ok(Outcome(match (later, lane) {
        (false, _) => Where::Done(now(work)?),
        (true, None) => Where::ReadOnPool(Box::new(work)),
        (true, Some(lane)) => Where::ReadOnLane(lane.clone(), Box::new(work)),
    }))
}

impl<T> TypeName for Outcome<T> {
    fn type_name() -> &'static str {
        "unknown"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl<T: Send + ToNapiValue + 'static> ToNapiValue for Outcome<T> {
    unsafe fn to_napi_value(env: sys::napi_env, outcome: Self) -> napi::Result<sys::napi_value> {
        match outcome.0 {
            // SAFETY: as the caller's.
            Where::Done(value) => unsafe { Wrapped::to_napi_value(env, Wrapped(value)) },
            Where::Pool(work) => {
                let task = AsyncTask::new(Job(Some(work)));
                // SAFETY: as the caller's.
                unsafe { AsyncTask::to_napi_value(env, task) }
            }
            Where::Lane(lane, work) => promise(Env::from_raw(env), &lane, work),
            Where::ReadOnPool(work) => {
                let task = AsyncTask::new(ReadJob(Some(work)));
                // SAFETY: as the caller's.
                unsafe { AsyncTask::to_napi_value(env, task) }
            }
            Where::ReadOnLane(lane, work) => reading(Env::from_raw(env), &lane, work),
        }
    }
}

fn promise<T: Send + ToNapiValue + 'static>(
    env: Env,
    lane: &Lane,
    work: Work<T>,
) -> napi::Result<sys::napi_value> {
    let (deferred, promise) = env.create_deferred()?;
    let unstarted = deferred.clone();
    let queued = lane.run(move || match now(work) {
        Ok(value) => deferred.resolve(move |_env| Ok(Wrapped(value))),
        Err(error) => deferred.reject(error),
    });
    if let Err(error) = queued {
        unstarted.reject(thrown(packed(&error)));
    }
    Ok(promise.raw())
}

/// Reads on a thread of a lane, or where that has to wait, on one for waiting.
fn reading<T: Send + ToNapiValue + 'static>(
    env: Env,
    lane: &Lane,
    work: Reading<T>,
) -> napi::Result<sys::napi_value> {
    let (deferred, promise) = env.create_deferred()?;
    let settle = |deferred: JsDeferred<Wrapped<T>, _>, result| match result {
        Ok(value) => deferred.resolve(Box::new(move |_| Ok(Wrapped(value))) as Resolver<T>),
        Err(error) => deferred.reject(error),
    };
    let unstarted = deferred.clone();
    let queued = lane.run(move || {
        if let Some(result) = hurriedly(|| now(&work)) {
            return settle(deferred, result);
        }
        let unstarted = deferred.clone();
        let queued = Lane::waiting().run(move || settle(deferred, now(&work)));
        if let Err(error) = queued {
            unstarted.reject(thrown(packed(&error)));
        }
    });
    if let Err(error) = queued {
        unstarted.reject(thrown(packed(&error)));
    }
    Ok(promise.raw())
}

type Resolver<T> = Box<dyn FnOnce(Env) -> napi::Result<Wrapped<T>> + Send>;

/// An operation that reads on a thread of libuv's pool.
struct ReadJob<T>(Option<Reading<T>>);

/// What reading came to.
enum Answer<T> {
    Here(Wrapped<T>),
    /// It has to wait.
    Waits(Reading<T>),
}

impl<T: Send + ToNapiValue + 'static> Task for ReadJob<T> {
    type Output = Answer<T>;
    type JsValue = Answer<T>;

    fn compute(&mut self) -> napi::Result<Answer<T>> {
        let work = self.0.take();
        let work = work.ok_or_else(|| napi::Error::from_reason("the operation ran already"))?;
        match hurriedly(|| now(&work)) {
            Some(result) => result.map(|value| Answer::Here(Wrapped(value))),
            None => Ok(Answer::Waits(work)),
        }
    }

    fn resolve(&mut self, _env: Env, output: Answer<T>) -> napi::Result<Answer<T>> {
        Ok(output)
    }
}

impl<T> TypeName for Answer<T> {
    fn type_name() -> &'static str {
        "unknown"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl<T: Send + ToNapiValue + 'static> ToNapiValue for Answer<T> {
    unsafe fn to_napi_value(env: sys::napi_env, answer: Self) -> napi::Result<sys::napi_value> {
        match answer {
            // SAFETY: as the caller's.
            Self::Here(value) => unsafe { Wrapped::to_napi_value(env, value) },
            // A promise that is resolved with another one becomes that.
            Self::Waits(work) => promise(Env::from_raw(env), Lane::waiting(), work),
        }
    }
}

/// An operation that waits for a thread of libuv's pool.
struct Job<T>(Option<Work<T>>);

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

/// A value on its way to JavaScript; a panic, which is a bug, becomes an exception there too.
struct Wrapped<T>(T);

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
        let convert = || unsafe { T::to_napi_value(env, value.0) };
        catch_unwind(AssertUnwindSafe(convert)).unwrap_or_else(|panic| Err(thrown(said(&*panic))))
    }
}

/// Runs an operation on the calling thread; a panic, which is a bug, becomes an exception too.
pub(crate) fn now<T>(work: impl FnOnce() -> Result<T, Error>) -> napi::Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(thrown(packed(&error))),
        Err(panic) => Err(thrown(said(&*panic))),
    }
}

fn thrown(reason: String) -> napi::Error {
    napi::Error::new(Status::GenericFailure, reason)
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
    let source = std::error::Error::source(error)
        .filter(|_| error.message() != error.detail())
        .map(ToString::to_string);
    json!({
        "kind": kind.name(),
        "code": kind.code(),
        "errno": kind.errno(),
        "op": error.operation(),
        "path": error.subject(),
        "detail": detail,
        "source": source,
        "content": error.missing_content().map(|hash| hash.to_hex()),
        "asked": error.asked(),
    })
    .to_string()
}
