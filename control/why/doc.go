// Package why makes one story of what the proxies on a request's way recorded: the true cause first, which object decided, what to
// change.
//
// Records and who sent them enter, with a look at the objects there are; stories leave. It is a pure function, for whoever answers
// `weir why`. What no record says is not guessed: it is said to be unknown.
package why
