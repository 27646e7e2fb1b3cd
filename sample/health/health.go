// Package health is gRPC's health service (grpc.health.v1), which is all that a kubelet
// or a test asks of a gRPC server, on net/http alone.
//
// Handler answers Check; Ask asks. Both are for cleartext HTTP/2 (h2c) and may be used at
// once. Wire format: "gRPC over HTTP2", a five-byte prefix before each message; messages:
// grpc/health/v1/health.proto.
package health

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// Path is the method Check.
const Path = "/grpc.health.v1.Health/Check"

const unimplemented = "12" // google.rpc.Code

// most is how much of a message is read: the request has one short string.
const most = 4096

// Handler serves Check: everything is SERVING, and the header x-served-by says who says so.
func Handler(host string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("X-Served-By", host)
		if r.URL.Path != Path {
			h.Set("Grpc-Status", unimplemented)
			h.Set("Grpc-Message", "only "+Path+" is here")
			return
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, most)); err != nil {
			return // the client is gone
		}
		h.Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0x08, 0x01}) // status (field 1): SERVING (1)
		h.Set("Grpc-Status", "0")
	})
}

// Ask calls Check at an authority and returns who answered. c must speak HTTP/2.
func Ask(ctx context.Context, c *http.Client, authority string) (by string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+authority+Path, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return "", err
	}
	r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return "", err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" { // an answer without a message has it in its head
		status = resp.Header.Get("Grpc-Status")
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("HTTP status %d", resp.StatusCode)
	case status != "0":
		return "", fmt.Errorf("gRPC status %q %s", status, resp.Header.Get("Grpc-Message")+resp.Trailer.Get("Grpc-Message"))
	case !bytes.HasSuffix(body, []byte{0x08, 0x01}):
		return "", fmt.Errorf("not SERVING: % x", body)
	}
	return resp.Header.Get("X-Served-By"), nil
}
