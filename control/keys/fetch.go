package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/weirmesh/weir/internal/jwt"
)

// discovery ends the address of an issuer's OpenID configuration, which names that of its keys.
const discovery = "/.well-known/openid-configuration"

// fetch gets the set at uri, and marks where it came from.
func (f *Fetcher) fetch(ctx context.Context, uri string) (string, error) {
	text, err := f.get(ctx, uri)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(uri, discovery) {
		var m struct {
			KeySet string `json:"jwks_uri"`
		}
		if err := json.Unmarshal([]byte(text), &m); err != nil || m.KeySet == "" {
			return "", errors.New("the OpenID configuration there names no jwks_uri")
		}
		if strings.HasPrefix(uri, "https:") && !strings.HasPrefix(m.KeySet, "https:") {
			return "", fmt.Errorf("the OpenID configuration there names keys at %.200q, which is not https", m.KeySet)
		}
		if text, err = f.get(ctx, m.KeySet); err != nil {
			return "", fmt.Errorf("keys of the OpenID configuration there: %w", err)
		}
	}
	marked, err := jwt.Marked(text, uri)
	if err == nil {
		_, err = jwt.ParseKeys(marked)
	}
	if err != nil {
		return "", fmt.Errorf("what is there %w", err)
	}
	return marked, nil
}

func (f *Fetcher) get(ctx context.Context, uri string) (string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return "", fmt.Errorf("fetching keys: %w", err)
	}
	q.Header.Set("accept", "application/json")
	q.Header.Set("user-agent", "weir-control")
	r, err := f.client.Do(q)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address, which may be long, and is told elsewhere
		}
		return "", fmt.Errorf("fetching keys: %w", err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetching keys: the answer is %s", r.Status)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, jwt.MaxKeySet+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("fetching keys: %w", err)
	case len(b) > jwt.MaxKeySet:
		return "", fmt.Errorf("fetching keys: the answer has more than %d bytes", jwt.MaxKeySet)
	}
	return string(b), nil
}

// redirect follows few redirects, and none from https to http.
func redirect(q *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 3:
		return errors.New("more than 3 redirects")
	case via[0].URL.Scheme == "https" && q.URL.Scheme != "https":
		return errors.New("redirected from https to http")
	}
	return nil
}
