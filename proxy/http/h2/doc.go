// Package h2 is the HTTP/2 codec (RFC 9113, with extended CONNECT of RFC 8441) as a pure machine for one connection, server or
// client: bytes in, events out (Step); calls in, bytes out. No socket, no clock, no goroutine, no allocation in steady state.
//
// What a peer's bytes become is a message.Request or message.Response in which nothing about the connection is left, exactly as
// from package h1; what is sent comes from such a message only. Malformed messages end their stream, everything else a peer does
// wrong ends the connection, each with a Reason. Whatever a peer can make us do without use is paid from a budget that useful work
// and time refill (budget.go has the numbers).
//
// A Machine and its Streams belong to one loop. docs/design/h2.md says who owns what.
package h2
