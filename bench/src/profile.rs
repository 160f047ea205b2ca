//! Where the time goes, by tracing spans.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::Subscriber;
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Time and number of all spans of a name.
#[derive(Clone, Default)]
pub(crate) struct Profile(Arc<Mutex<BTreeMap<&'static str, (Duration, u64)>>>);

/// When a span was entered, and how long it was entered in all.
struct Busy {
    since: Instant,
    total: Duration,
}

impl Profile {
    /// Records from now on.
    pub(crate) fn install() -> Result<Self> {
        let profile = Self::default();
        tracing_subscriber::registry()
            .with(profile.clone())
            .try_init()?;
        Ok(profile)
    }

    pub(crate) fn print(&self) {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: Vec<_> = spans.iter().collect();
        spans.sort_by_key(|(_, (time, _))| std::cmp::Reverse(*time));
        eprintln!("{:>12} {:>9}  span", "seconds", "times");
        for (name, (time, count)) in spans {
            eprintln!("{:>12.3} {count:>9}  {name}", time.as_secs_f64());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Profile {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Busy {
                since: Instant::now(),
                total: Duration::ZERO,
            });
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(busy) = span.extensions_mut().get_mut::<Busy>()
        {
            busy.since = Instant::now();
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(busy) = span.extensions_mut().get_mut::<Busy>()
        {
            busy.total += busy.since.elapsed();
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(span) = context.span(&id)
            && let Some(busy) = span.extensions().get::<Busy>()
        {
            let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (time, count) = spans.entry(span.name()).or_default();
            *time += busy.total;
            *count += 1;
        }
    }
}
