// Package http is the exchange: one request and its response, from the bytes of
// the client's connection to those of the upstream's and back.
//
// A connection enters by Worker.Serve, with the Config of its HTTP connection
// manager; everything else follows from its bytes. What leaves: upstream requests
// on connections of cluster/pool, responses, and one call of the Observer for
// every exchange. Filters see an exchange as a Stage and answer Continue, Hold or
// Reply; the only way to make a local reply takes a causes.Cause.
//
// The path of a request through the files: server.go (the client's connection)
// → exchange.go (stages, local replies) → identify.go, router.go and the filters
// as stages → attempt.go (choosing an endpoint, retries, timeouts) → client.go
// (the upstream connection) and back by flow.go (bodies, back-pressure, the end); tell.go says to the client why a proxy answered, recording.go keeps what it came to.
//
// Everything belongs to one worker, on whose loop all calls happen; only
// Ticket.Resume may be called from elsewhere. Exchanges, their messages and
// arenas are recycled: nothing of them may be kept after the Observer's End.
package http
