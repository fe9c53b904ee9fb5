-- For the manual page, a table becomes a list: a terminal is too narrow for it.
-- The first cell is the term; each other one is told with its column's name.
function Table(tbl)
  local simple = pandoc.utils.to_simple_table(tbl)
  local items = {}
  for _, row in ipairs(simple.rows) do
    local told = {}
    for column = 2, #row do
      local name = pandoc.utils.stringify(simple.headers[column])
      local cell = pandoc.utils.blocks_to_inlines(row[column])
      if #cell > 0 then
        if name ~= "" and #row > 2 then
          table.insert(cell, 1, pandoc.Str(name .. ": "))
        end
        table.insert(told, cell)
      end
    end
    local text = {}
    for i, cell in ipairs(told) do
      if i > 1 then table.insert(text, pandoc.Str("; ")) end
      for _, inline in ipairs(cell) do table.insert(text, inline) end
    end
    local term = pandoc.utils.blocks_to_inlines(row[1])
    table.insert(items, { term, { { pandoc.Plain(text) } } })
  end
  return pandoc.DefinitionList(items)
end
