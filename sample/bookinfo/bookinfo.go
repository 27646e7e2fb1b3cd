// Package bookinfo is the well-known four-service book store, as handlers.
//
// A browser's request enters the product page, which asks details and reviews;
// reviews (v2, v3) asks ratings; HTML or JSON leaves. Each constructor returns an
// independent http.Handler that may serve concurrently; none of them starts a
// goroutine, listens, or reads the environment. The README has the API.
package bookinfo

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Port is where each of the four services listens.
const Port = 9080

// maxBody bounds what is read from a back end or a client: the largest honest
// body here is under a kilobyte.
const maxBody = 1 << 20

// Backend says how another service is reached.
type Backend struct {
	// Authority is the name asked for, "ratings:9080": the Host header, and the
	// address unless Address says otherwise.
	Authority string

	// Address, "127.1.2.3:9080", is dialled instead of Authority where names do
	// not resolve.
	Address string
}

// get asks the back end for path within timeout.
func (b Backend) get(ctx context.Context, client *http.Client, path string, header http.Header, timeout time.Duration) (int, []byte, error) {
	address := cmp.Or(b.Address, b.Authority)
	status, body, err := get(ctx, client, "http://"+address+path, b.Authority, header, timeout)
	if err != nil {
		return 0, nil, fmt.Errorf("calling %s: %w", b.Authority, err)
	}
	return status, body, nil
}

// get asks for url within timeout; host, if set, replaces the Host header.
func get(ctx context.Context, client *http.Client, url, host string, header http.Header, timeout time.Duration) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	if host != "" {
		req.Host = host
	}
	req.Header = header
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	return res.StatusCode, body, err
}

// NewClient returns the client the services use for each other. At 300 requests
// a second and back ends that take up to a second, 300 connections are in use at
// a time; a pool smaller than that would close and reopen them all the time.
func NewClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment, // where only a proxy resolves names
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true, // what is on the wire should be readable
	}}
}

// propagated reports whether a request header travels on with the calls a request
// causes: without it a mesh could not tie the calls into one trace, nor route by
// user. name is in any case.
func propagated(name string) bool {
	name = strings.ToLower(name)
	switch name {
	case "x-request-id", // Envoy and Istio
		"x-ot-span-context",         // Lightstep
		"b3",                        // Zipkin, single header
		"traceparent", "tracestate", // W3C Trace Context
		"x-cloud-trace-context",  // Google Cloud
		"grpc-trace-bin",         // gRPC
		"sw8",                    // SkyWalking
		"end-user", "user-agent", // what the routing examples match on
		"cookie", "authorization", "jwt":
		return true
	}
	return strings.HasPrefix(name, "x-b3-") || strings.HasPrefix(name, "x-datadog-")
}

// forward returns the headers of r that travel on.
func forward(r *http.Request) http.Header {
	out := http.Header{}
	for name, values := range r.Header {
		if propagated(name) {
			out[name] = values
		}
	}
	return out
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

type failure struct {
	Error string `json:"error"`
}

type health struct {
	Status string `json:"status"`
}

// productID reads the id at the end of the path; it answers 400 and returns
// false if that is not a number.
func productID(w http.ResponseWriter, r *http.Request) (int, bool) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 0 {
		writeJSON(w, http.StatusBadRequest, failure{"please provide numeric product ID"})
		return 0, false
	}
	return id, true
}
