// Package httpbin is the request and response testing service everybody knows.
//
// Any HTTP request enters, what httpbin documents for its path leaves. The
// library mccutchen/go-httpbin does the work; only its settings are chosen here.
package httpbin

import (
	"net/http"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
)

// Port is where the image of Istio's samples listens.
const Port = 8080

// Handler serves httpbin. hostname is what /hostname answers.
func Handler(hostname string) http.Handler {
	return httpbin.New(httpbin.WithHostname(hostname)).Handler()
}
