/** Warnings of what was written and is let go without being committed. */

/** What is known of something that can be written, and shall be told when it is garbage. */
export interface Unsaved {
  readonly what: string;
  /** Whether something was written that is neither committed nor thrown away. */
  written: boolean;
}

const lost = new FinalizationRegistry<Unsaved>(({ what, written }) => {
  if (written) {
    const message = `${what} was collected as garbage: what was written to it is lost`;
    process.emitWarning(message, 'UnsavedWarning');
  }
});

/** Tells of an object when it is garbage, if something unsaved goes with it. */
export function unsaved(object: object, what: string): Unsaved {
  const state = { what, written: false };
  lost.register(object, state);
  return state;
}
