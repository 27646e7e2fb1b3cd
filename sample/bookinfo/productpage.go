package bookinfo

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// callTimeout is what the product page waits for one answer, as the original.
const callTimeout = 3 * time.Second

// userCookie carries the signed-in user's name, query-escaped. Nobody's password
// is checked, so nothing is gained by signing it.
const userCookie = "user"

// What the page and the API say of a back end that fails; documented interface.
const (
	noDetails = "Sorry, product details are currently unavailable for this book."
	noReviews = "Sorry, product reviews are currently unavailable for this book."
	noRatings = "Sorry, product ratings are currently unavailable for this book."
)

// ProductpageOptions configure Productpage.
type ProductpageOptions struct {
	Details, Reviews, Ratings Backend

	// Flood is how many further calls to reviews a page view makes, for trying
	// rate limits.
	Flood int

	Patience time.Duration // for one answer; 0: as the original

	Pod    string       // HOSTNAME of the pod that answers
	Client *http.Client // nil: NewClient()
	Log    *slog.Logger // nil: silent
}

type product struct {
	ID              int           `json:"id"`
	Title           string        `json:"title"`
	DescriptionHTML template.HTML `json:"descriptionHtml"`
}

// theBook is the only product; every id shows it.
func theBook() product {
	return product{0, "The Comedy of Errors", `<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">The Comedy of Errors</a> is <b>William Shakespeare’s</b> shortest play and one of his earliest. Two pairs of identical twins, parted at birth, turn up in the same city on the same day. Everybody is taken for somebody else, a great many people are beaten for it, and by evening nobody is sure who they are.`}
}

type productpage struct {
	ProductpageOptions
	results counter
}

// call is one answer of a back end.
type call struct {
	Status int // 0: there was none
	Body   json.RawMessage
	Took   time.Duration
}

func (c call) OK() bool { return c.Status == http.StatusOK }

// reported is the status that the API and the metrics give the call.
func (c call) reported() int {
	switch {
	case c.Status == 0:
		return http.StatusInternalServerError
	case c.Status < 400 && !c.OK(): // 204 and its like have no room for an error
		return http.StatusBadGateway
	}
	return c.Status
}

// Productpage serves the page, its assets, the login and the JSON API.
func Productpage(o ProductpageOptions) http.Handler {
	if o.Client == nil {
		o.Client = NewClient()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &productpage{ProductpageOptions: o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.index)
	mux.HandleFunc("GET /index.html", p.index)
	mux.HandleFunc("GET /productpage", p.page)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("GET /logout", p.logout)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("Product page is healthy"))
	})
	mux.HandleFunc("GET /metrics", p.results.serve)
	mux.HandleFunc("GET /static/{file...}", static)
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, []product{theBook()})
	})
	mux.HandleFunc("GET /api/v1/products/{id}", p.api(p.details, noDetails))
	mux.HandleFunc("GET /api/v1/products/{id}/reviews", p.api(p.reviews, noReviews))
	mux.HandleFunc("GET /api/v1/products/{id}/ratings", p.api(p.ratings, noRatings))
	return mux
}

func (p *productpage) details(r *http.Request, id int) call {
	return p.ask(r, "details", p.Details, id)
}

// reviews asks twice. The original keeps the second try on purpose: with a delay
// in ratings the page fails after 6 s, which its fault injection walk-through
// sets out to find.
func (p *productpage) reviews(r *http.Request, id int) call {
	first := p.ask(r, "reviews", p.Reviews, id)
	if first.OK() {
		return first
	}
	second := p.ask(r, "reviews", p.Reviews, id)
	second.Took += first.Took
	return second
}

func (p *productpage) ratings(r *http.Request, id int) call {
	return p.ask(r, "ratings", p.Ratings, id)
}

func (p *productpage) ask(r *http.Request, service string, to Backend, id int) call {
	header := forward(r)
	header.Del("End-User") // only a login says who the user is
	if user := signedIn(r); user != "" {
		header.Set("End-User", user)
	}
	start := time.Now()
	status, body, err := to.get(r.Context(), p.Client, fmt.Sprintf("/%s/%d", service, id), header, cmp.Or(p.Patience, callTimeout))
	if err == nil && status == http.StatusOK && !json.Valid(body) {
		status, err = http.StatusBadGateway, fmt.Errorf("calling %s: the answer is not JSON", to.Authority)
	}
	c := call{Status: status, Body: body, Took: time.Since(start)}
	switch {
	case err != nil:
		p.Log.Warn("a section of the page is unavailable", "service", service, "err", err)
	case !c.OK():
		p.Log.Warn("a section of the page is unavailable", "service", service, "status", status)
	}
	p.results.add(service, c.reported())
	return c
}

// api passes a back end's answer on, or its status with the sentence for failures.
func (p *productpage) api(ask func(*http.Request, int) call, sorry string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, ok := productID(w, r)
		if !ok {
			return
		}
		c := ask(r, id)
		if !c.OK() {
			writeJSON(w, c.reported(), failure{sorry})
			return
		}
		writeJSON(w, http.StatusOK, c.Body)
	}
}

// validUser accepts what can stand in a header and on the page.
func validUser(name string) bool {
	return name != "" && len(name) <= 64 && utf8.ValidString(name) &&
		strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// signedIn returns the name in the request's cookie, "" if nobody is signed in.
func signedIn(r *http.Request) string {
	c, err := r.Cookie(userCookie)
	if err != nil {
		return ""
	}
	name, err := url.QueryUnescape(c.Value)
	if err != nil || !validUser(name) {
		return ""
	}
	return name
}

func (p *productpage) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	name := strings.TrimSpace(r.FormValue("username"))
	if !validUser(name) {
		http.Error(w, "username must be 1 to 64 bytes of printable text", http.StatusBadRequest)
		return
	}
	setUser(w, url.QueryEscape(name), 0)
	back(w)
}

func (p *productpage) logout(w http.ResponseWriter, _ *http.Request) {
	setUser(w, "", -1)
	back(w)
}

func setUser(w http.ResponseWriter, value string, maxAge int) {
	//nolint:gosec // not Secure: the sample is served over plain HTTP
	http.SetCookie(w, &http.Cookie{Name: userCookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// back redirects to the product page. The location is relative, so that it holds
// where a gateway serves the application below a prefix.
func back(w http.ResponseWriter) {
	w.Header().Set("Location", "productpage")
	w.WriteHeader(http.StatusFound)
}

// counter counts calls by service and status, as the original's Prometheus
// counter request_result.
type counter struct {
	mu sync.Mutex
	n  map[result]uint64
}

type result struct {
	service string
	status  int
}

func (c *counter) add(service string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[result]uint64{}
	}
	c.n[result{service, status}]++
}

func (c *counter) serve(w http.ResponseWriter, _ *http.Request) {
	var lines []string
	c.mu.Lock()
	for r, n := range c.n {
		lines = append(lines, fmt.Sprintf("request_result_total{destination_app=%q,response_code=\"%d\"} %d\n", r.service, r.status, n))
	}
	c.mu.Unlock()
	slices.SortFunc(lines, cmp.Compare[string])
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	fmt.Fprintf(w, "# HELP request_result_total Results of requests\n# TYPE request_result_total counter\n%s", strings.Join(lines, ""))
}
