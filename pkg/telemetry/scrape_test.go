package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/telemetry"
)

func scrape(t *telemetry.Telemetry) (int, string) {
	w := httptest.NewRecorder()
	t.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	return w.Code, w.Body.String()
}

func TestMetricsCanBeScraped(t *testing.T) {
	t.Parallel()
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "ark runtime", Version: "1", Scrape: true})
	require.NoError(t, err)
	tel.CallUnknown(t.Context(), "writer", 3)
	tel.BudgetRefused(t.Context(), "writer")
	code, text := scrape(tel)
	require.Equal(t, http.StatusOK, code)
	for _, line := range []string{
		"# TYPE ark_llm_calls_unknown_total counter",
		`ark_llm_calls_unknown_total{gen_ai_agent_name="writer",otel_scope_name="arkonis.dev/ark",otel_scope_schema_url="",otel_scope_version=""} 3`,
		"# TYPE ark_budget_refused_total counter",
		"go_goroutines ",
		"process_resident_memory_bytes ",
		`service_name="ark runtime"`,
	} {
		require.Contains(t, text, line)
	}
	require.NoError(t, tel.Shutdown(t.Context()))
}

func TestNothingToScrapeUnlessAsked(t *testing.T) {
	t.Parallel()
	tel, err := telemetry.Start(t.Context(), telemetry.Config{})
	require.NoError(t, err)
	for _, tel := range []*telemetry.Telemetry{tel, nil} {
		code, _ := scrape(tel)
		require.Equal(t, http.StatusNotFound, code)
	}
}
