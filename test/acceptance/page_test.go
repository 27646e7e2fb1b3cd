//go:build linux

package acceptance_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is what a user sees of bookinfo.
type page struct {
	status  int
	version string   // of reviews
	color   string   // of the stars
	missing []string // unavailable sections
}

var (
	versionOn = regexp.MustCompile(`data-reviews-version="([^"]+)"`)
	colorOn   = regexp.MustCompile(`data-color="([^"]+)"`)
	missingOn = regexp.MustCompile(`data-unavailable="([^"]+)"`)
)

// view asks the ingress for the page, as a user who signed in.
func (m *mesh) view(user string) (page, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+m.ingress+"/productpage", nil)
	if err != nil {
		return page{}, err
	}
	if user != "" {
		req.AddCookie(&http.Cookie{Name: "user", Value: user})
	}
	r, err := m.client.Do(req)
	if err != nil {
		return page{}, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return page{}, err
	}
	p := page{status: r.StatusCode}
	if p.status != http.StatusOK {
		return p, fmt.Errorf("status %d: %.200s", p.status, b)
	}
	for _, f := range []struct {
		re   *regexp.Regexp
		into *string
	}{{versionOn, &p.version}, {colorOn, &p.color}} {
		if s := f.re.FindSubmatch(b); s != nil {
			*f.into = string(s[1])
		}
	}
	for _, s := range missingOn.FindAllSubmatch(b, -1) {
		if name := string(s[1]); !slices.Contains(p.missing, name) {
			p.missing = append(p.missing, name)
		}
	}
	return p, nil
}

// whole is the error of a page that misses something.
func (p page) whole() error {
	if len(p.missing) > 0 {
		return fmt.Errorf("unavailable on the page: %s", strings.Join(p.missing, ", "))
	}
	if p.version == "" {
		return errors.New("no reviews on the page")
	}
	return nil
}

// sees wants a whole page.
func (m *mesh) sees() page {
	m.t.Helper()
	p, err := m.view("")
	if err == nil {
		err = p.whole()
	}
	if err != nil {
		m.t.Fatalf("the page: %v", err)
	}
	return p
}

// samples is the folder of Istio's published samples.
func samples(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		s := filepath.Join(dir, "..", "shared", "fixtures", "istio-samples")
		if _, err := os.Stat(s); err == nil {
			return s
		}
	}
	t.Skip("Istio's published samples are not at ../shared/fixtures/istio-samples")
	return ""
}
