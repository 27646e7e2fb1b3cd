// Package state is where xDS becomes proxy state: decode, check, build an immutable
// State beside the old one.
//
// Resources enter (opaque Any messages from xds/client, or a static bootstrap file);
// a *State leaves, or an error that names the resource and the path of the field, and
// then nothing has changed. One goroutine owns a Builder. A State is immutable and may
// be read by every worker; what must survive from one State to the next because
// traffic hangs on it (cluster and endpoint identities, limits, tables and listeners
// whose bytes did not change) is carried over by the Builder.
//
// Nothing is silently ignored: fields.go lists, for every message, the fields the
// proxy acts on and those it leaves alone on purpose, with the reason. Any other field
// that is set is refused with its path. Settings of filters that always do the same are
// in unheeded.go: those that ask for something else are told.
package state
