// Package healthz asks an HTTP server whether it is ready, and reads the reason if it is
// not. A transport and a URL enter. It keeps nothing.
package healthz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxReason bounds what is read of an answer.
const maxReason = 512

// Get is nil if url answers 200; otherwise what the server says about it, in a line.
func Get(ctx context.Context, transport http.RoundTripper, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		reason, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n") // the first of several says enough
		return errors.New(cmp.Or(reason, resp.Status))
	}
	return nil
}
